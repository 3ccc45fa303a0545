//! What the recipe found, from the results of its stages: no times and no paths, so that the same
//! results give the same report.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::Recipe;
use super::stage::Stage;
use crate::intervals::{Estimate, difference};
use crate::summary::write_json;

/// Rows of the table of arms: a result's name, and its place in an evaluation.
const ROWS: [(&str, &str); 3] = [
    ("jargon rate", "/jargon_rate"),
    ("strong alone, sampled", "/solo_accuracy"),
    ("strong alone, greedy", "/solo_accuracy_greedy"),
];

/// What the run says of the claim that handoffs remove jargon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Less jargon with handoffs than without.
    Effect,
    /// No difference that these many outputs could show.
    Null,
    /// More of it.
    Reverse,
}

/// One number in the tandem arm minus the control.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Contrast {
    name: String,
    tandem: f64,
    control: f64,
    difference: f64,
    low: f64,
    high: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    strong: String,
    weak: String,
    probe: Value,
    /// Evaluations on held-out problems.
    start: Value,
    tandem: Value,
    control: Value,
    contrasts: Vec<Contrast>,
    verdict: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_set: Option<TestSet>,
}

#[derive(Debug, Serialize)]
struct TestSet {
    start: Value,
    tandem: Value,
    control: Value,
}

/// Writes `report.json` and `report.md`; returns the text of the latter.
///
/// # Errors
/// A stage's result that is missing or is no such thing, or files that cannot be written.
pub(super) fn write(recipe: &Recipe) -> anyhow::Result<String> {
    let report = gather(recipe)?;
    let path = recipe.dir.join("report.json");
    write_json(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    let text = report.text();
    let path = recipe.dir.join("report.md");
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

fn gather(recipe: &Recipe) -> anyhow::Result<Report> {
    let read = |stage: Stage| {
        let path = stage.result(recipe)?;
        read_json(&path.with_context(|| format!("the stage `{}` has no result", stage.name()))?)
    };
    let (tandem, control) = (read(Stage::Tandem)?, read(Stage::Control)?);
    let test_set = match recipe.test_set {
        false => None,
        true => Some(TestSet {
            start: read(Stage::TestStart)?,
            tandem: read(Stage::TestTandem)?,
            control: read(Stage::TestControl)?,
        }),
    };
    let (after_tandem, after_control) = (tandem["after"].clone(), control["after"].clone());
    let contrasts = contrasts(&after_tandem, &after_control);
    let name = |model: &str| {
        let file = Path::new(model).file_name();
        file.map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    Ok(Report {
        strong: name(&recipe.settings.strong.model),
        weak: name(recipe.settings.weak_model()),
        probe: read(Stage::Probe)?["probe"].clone(),
        start: tandem["before"].clone(),
        tandem: after_tandem,
        control: after_control,
        verdict: contrasts.iter().find(|c| c.name == ROWS[0].0).map(verdict),
        contrasts,
        test_set,
    })
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

fn verdict(jargon: &Contrast) -> Verdict {
    if jargon.high < 0.0 {
        Verdict::Effect
    } else if jargon.low > 0.0 {
        Verdict::Reverse
    } else {
        Verdict::Null
    }
}

/// Differences between the arms, outputs taken as independent: the arms are two runs.
fn contrasts(tandem: &Value, control: &Value) -> Vec<Contrast> {
    let rows = ROWS.iter().map(|(name, at)| ((*name).to_owned(), (*at).to_owned()));
    let mut found = Vec::new();
    for (name, at) in rows.chain(schedules(tandem)) {
        let number = |arm: &Value| Some((arm.pointer(&at)?.as_f64()?, outputs(arm, &at)));
        let (Some(t), Some(c)) = (number(tandem), number(control)) else { continue };
        let Estimate { value, low, high } = difference(t, c);
        let (tandem, control) = (t.0, c.0);
        found.push(Contrast { name, tandem, control, difference: value, low, high });
    }
    found
}

/// Name and place of the accuracies under schedules.
fn schedules(evaluation: &Value) -> Vec<(String, String)> {
    let all = evaluation["tandem_accuracy"].as_object();
    let names = all.into_iter().flatten().map(|(schedule, _)| schedule);
    names.map(|s| (format!("tandem, {s}"), format!("/tandem_accuracy/{s}"))).collect()
}

/// How many outputs a share is of: greedy ones are written once a problem.
fn outputs(evaluation: &Value, at: &str) -> usize {
    let problems = evaluation["problems"].as_u64().unwrap_or(0);
    let lines = evaluation["pass_at"].as_array();
    let samples = lines.into_iter().flatten().filter_map(|line| line["samples"].as_u64()).max();
    let samples = if at.ends_with("greedy") { 1 } else { samples.unwrap_or(1) };
    (problems * samples) as usize
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "# Calculator annotations as jargon\n\nstrong: {}, weak: {}\n",
            self.strong, self.weak
        );
        self.probe_section(&mut text);
        text.push_str("\n## Held-out problems\n\n");
        arms_table(&mut text, [&self.start, &self.tandem, &self.control]);
        text.push_str("\n## Tandem arm against control\n\n");
        text.push_str("| | tandem | control | difference [95% interval] |\n|---|---|---|---|\n");
        for c in &self.contrasts {
            let Contrast { name, tandem, control, difference, low, high } = c;
            put(
                &mut text,
                format_args!(
                    "| {name} | {tandem:.3} | {control:.3} | {difference:+.3} [{low:+.3}, {high:+.3}] |\n"
                ),
            );
        }
        text.push('\n');
        text.push_str(match self.verdict {
            Some(Verdict::Effect) => "Effect: with handoffs there is less jargon than without.\n",
            Some(Verdict::Null) => {
                "Null result: the interval of the jargon's difference contains 0.\n"
            }
            Some(Verdict::Reverse) => "Reverse: with handoffs there is more jargon than without.\n",
            None => "No verdict: the jargon rate was not measured.\n",
        });
        if let Some(TestSet { start, tandem, control }) = &self.test_set {
            text.push_str("\n## Test set\n\n");
            arms_table(&mut text, [start, tandem, control]);
        }
        text
    }

    fn probe_section(&self, text: &mut String) {
        text.push_str("\n## Probe, before training\n\n");
        text.push_str("| after gold | plain | annotated | difference [95% interval] |\n");
        text.push_str("|---|---|---|---|\n");
        for (name, key) in [
            ("weak alone, after half a solution", "weak_after"),
            ("tandem, led into a style", "tandem_led"),
        ] {
            let at = |field: &str| self.probe[key][field].as_f64().unwrap_or(f64::NAN);
            let (plain, annotated, low, high) =
                (at("plain"), at("annotated"), at("low"), at("high"));
            put(
                text,
                format_args!(
                    "| {name} | {plain:.3} | {annotated:.3} | {:+.3} [{low:+.3}, {high:+.3}] |\n",
                    at("difference")
                ),
            );
        }
        let at = |field: &str| self.probe["tandem_led"][field].as_f64().unwrap_or(0.0);
        if at("low") > 0.0 {
            text.push_str("\nPlain style pays in tandem: an effect is to be expected.\n");
        } else if at("high") < 0.0 {
            text.push_str("\nWarning: annotations pay in tandem.\n");
        } else {
            text.push_str("\nWarning: the interval contains 0, no effect is to be expected.\n");
        }
    }
}

/// Start, tandem and control side by side, with intervals where they were measured.
fn arms_table(text: &mut String, arms: [&Value; 3]) {
    text.push_str("| | start | tandem | control |\n|---|---|---|---|\n");
    let fixed = ROWS.iter().map(|(name, at)| ((*name).to_owned(), (*at).to_owned()));
    let weak = ("weak alone, sampled".to_owned(), "/weak_solo_accuracy".to_owned());
    for (name, at) in fixed.chain(schedules(arms[1])).chain([weak]) {
        let cells = arms.map(|arm| {
            let value = arm.pointer(&at).and_then(Value::as_f64);
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
        });
        put(text, format_args!("| {name} | {} |\n", cells.join(" | ")));
    }
    for (arm, title) in [("solo", "strong alone"), ("solo_greedy", "strong alone, greedy")] {
        for grader in ["lm-eval-strict", "lm-eval-flexible"] {
            let cells = arms.map(|found| pass_cell(found, arm, grader));
            put(text, format_args!("| {title}, {grader} | {} |\n", cells.join(" | ")));
        }
    }
}

fn pass_cell(evaluation: &Value, arm: &str, grader: &str) -> String {
    let mut lines = evaluation["pass_at"].as_array().into_iter().flatten();
    let line = lines.find(|l| l["arm"] == arm && l["grader"] == grader && l["k"] == 1);
    let number = |line: &Value, field: &str| line[field].as_f64().unwrap_or(f64::NAN);
    line.map_or_else(
        || "–".to_owned(),
        |line| {
            let [value, low, high] = ["value", "low", "high"].map(|field| number(line, field));
            format!("{value:.3} [{low:.3}, {high:.3}]")
        },
    )
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a string takes what is written");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluation(jargon: f64) -> Value {
        json!({"problems": 200, "jargon_rate": jargon, "solo_accuracy": 0.5,
               "solo_accuracy_greedy": null, "tandem_accuracy": {"word:0.5": 0.25},
               "pass_at": [{"arm": "solo", "grader": "lm-eval-strict", "k": 1, "samples": 4,
                            "value": 0.5, "low": 0.4, "high": 0.6}]})
    }

    fn report(tandem: f64, control: f64) -> Report {
        let (tandem, control) = (evaluation(tandem), evaluation(control));
        let contrasts = contrasts(&tandem, &control);
        Report {
            strong: "s".into(),
            weak: "w".into(),
            probe: json!({"tandem_led": {"plain": 0.5, "annotated": 0.5, "difference": 0.0,
                                         "low": -0.1, "high": 0.1}}),
            start: evaluation(0.75),
            verdict: contrasts.first().map(verdict),
            tandem,
            control,
            contrasts,
            test_set: None,
        }
    }

    #[test]
    fn a_difference_is_an_effect_only_beyond_its_interval() {
        for (tandem, control, expected) in [
            (0.1, 0.7, Verdict::Effect),
            (0.70, 0.72, Verdict::Null),
            (0.7, 0.7, Verdict::Null),
            (0.9, 0.7, Verdict::Reverse),
        ] {
            assert_eq!(report(tandem, control).verdict, Some(expected), "{tandem}, {control}");
        }
        // Four outputs a problem.
        let found = report(0.1, 0.7).contrasts;
        let expected = difference((0.1, 800), (0.7, 800));
        assert_eq!((found[0].low, found[0].high), (expected.low, expected.high));
        let names: Vec<&str> = found.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["jargon rate", "strong alone, sampled", "tandem, word:0.5"]);
    }

    #[test]
    fn a_null_result_and_a_hopeless_probe_are_called_so() {
        let text = report(0.7, 0.7).text();
        assert!(text.contains("Null result"), "{text}");
        assert!(text.contains("no effect is to be expected"), "{text}");
        assert!(text.contains("| jargon rate | 0.750 | 0.700 | 0.700 |"), "{text}");
        assert!(text.contains("| strong alone, lm-eval-strict | 0.500 [0.400, 0.600] |"), "{text}");
        assert!(report(0.1, 0.7).text().contains("Effect: with handoffs there is less jargon"));
    }
}
