//! Runs side by side as rows of text: the settings in which they differ, their results and what they
//! cost, and their evaluations during training.

use serde::Serialize;

use super::heldout::{schedules, shown};
use super::record::Record;
use crate::eval_plan::EvalResult;
use crate::resume::leaves;
use crate::run_lines::StepLine;

/// Differs between any two runs and says nothing.
const PLACES: [&str; 2] = ["run.dir", "coordinator.address"];

/// A heading with rows below it.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) heading: &'static str,
    pub(super) rows: Vec<Row>,
}

/// A name and a cell for each run.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<String>,
}

/// Evaluations of one run during training.
#[derive(Debug, Serialize)]
pub(super) struct During {
    pub(super) run: usize,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

pub(super) fn comparison(records: &[Record]) -> Vec<Part> {
    let parts = [
        Part { heading: "Settings that differ", rows: differing(records) },
        Part { heading: "Results, before → last", rows: results(records) },
        Part { heading: "Cost", rows: costs(records) },
    ];
    parts.into_iter().filter(|part| !part.rows.is_empty()).collect()
}

/// All runs have the same schema, so that their settings have the same order.
fn differing(records: &[Record]) -> Vec<Row> {
    let all: Vec<Vec<(String, String)>> =
        records.iter().map(|record| leaves(&record.settings)).collect();
    let Some(first) = all.first() else { return Vec::new() };
    let row = |(at, (key, value)): (usize, &(String, String))| {
        let cells: Vec<String> = all.iter().map(|leaves| leaves[at].1.clone()).collect();
        let differs = cells.iter().any(|cell| cell != value) && !PLACES.contains(&key.as_str());
        differs.then(|| Row { name: key.clone(), cells })
    };
    first.iter().enumerate().filter_map(row).collect()
}

fn results(records: &[Record]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: String, reading: &dyn Fn(&EvalResult) -> Option<f64>| {
        let cell = |record: &Record| {
            let before = record.before.as_ref().and_then(|e| reading(&e.result));
            let latest = record.latest().and_then(|e| reading(&e.result));
            format!("{} → {}", shown(before), shown(latest))
        };
        let mut measured = records.iter().flat_map(Record::evaluations);
        if measured.any(|e| reading(&e.result).is_some()) {
            rows.push(Row { name, cells: records.iter().map(cell).collect() });
        }
    };
    let schedules = schedules(records);
    add("strong alone, sampled".to_owned(), &|r| r.solo_accuracy);
    add("strong alone, greedy".to_owned(), &|r| r.solo_accuracy_greedy);
    for name in &schedules {
        add(format!("tandem, {name}"), &|r| r.tandem_accuracy.get(name));
    }
    for name in &schedules {
        add(format!("handoff success, {name}"), &|r| r.handoff_success_rate.get(name));
    }
    add("jargon".to_owned(), &|r| r.jargon_rate);
    add("weak alone, sampled".to_owned(), &|r| r.weak_solo_accuracy);
    rows
}

fn costs(records: &[Record]) -> Vec<Row> {
    let row = |name: &str, cell: &dyn Fn(&Record) -> String| Row {
        name: name.to_owned(),
        cells: records.iter().map(cell).collect(),
    };
    let tokens = |run: &Record| {
        let sum = |of: fn(&StepLine) -> u64| run.steps.iter().map(of).sum::<u64>();
        (sum(|step| step.tokens.strong), sum(|step| step.tokens.weak))
    };
    vec![
        row("steps", &|run| format!("{} of {}", run.committed(), run.settings.train.steps)),
        row("wall", &|run| match (&run.summary, run.steps.last()) {
            (Some(summary), _) => duration(summary.wall_seconds),
            (None, Some(last)) => format!("{} so far", duration(last.wall_seconds)),
            (None, None) => "–".to_owned(),
        }),
        row("CPU, all processes", &|run| {
            let cpu = run.summary.as_ref().map(|summary| duration(summary.cpu_seconds));
            cpu.unwrap_or_else(|| "–".to_owned())
        }),
        row("tokens of the strong model", &|run| grouped(tokens(run).0)),
        row("tokens of the weak model", &|run| grouped(tokens(run).1)),
        row("share of the weak model", &|run| {
            let (strong, weak) = tokens(run);
            match strong + weak {
                0 => "–".to_owned(),
                all => format!("{:.1}%", 100.0 * weak as f64 / all as f64),
            }
        }),
    ]
}

/// Those that have any.
pub(super) fn during(records: &[Record]) -> Vec<During> {
    let table = |(run, record): (usize, &Record)| {
        let schedules = schedules(std::slice::from_ref(record));
        let mut columns = ["step", "problems", "solo"].map(str::to_owned).to_vec();
        columns.extend(schedules.iter().map(|name| format!("tandem, {name}")));
        columns.push("jargon".to_owned());
        let rows = record.evaluations().map(|evaluated| {
            let result = &evaluated.result;
            let mut cells = vec![evaluated.step.to_string(), result.problems.to_string()];
            cells.push(shown(result.solo_accuracy));
            cells.extend(schedules.iter().map(|name| shown(result.tandem_accuracy.get(name))));
            cells.push(shown(result.jargon_rate));
            cells
        });
        During { run, columns, rows: rows.collect() }
    };
    let some = records.iter().enumerate().filter(|(_, record)| !record.during.is_empty());
    some.map(table).collect()
}

/// What the page says of a run in one line, or two.
pub(super) fn description(run: &Record) -> String {
    let s = &run.settings;
    let file = |model: &str| {
        let name = std::path::Path::new(model).file_name();
        name.map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let (strong, weak) = (file(&s.strong.model), file(s.weak_model()));
    let leaf = |key: &str| {
        let found = leaves(s).into_iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let (data, objective) = (leaf("data.source"), leaf("train.objective"));
    if s.train.objective == settings::Objective::Sft {
        return format!("{strong}, fine-tuned on worked solutions of {data}; seed {}", s.seed);
    }
    let schedule = s.train_schedule().map_or_else(|fault| fault, |schedule| schedule.to_string());
    format!(
        "{strong} with {weak} as the weak model, on {data}; {objective}, {} × {} rollouts a step \
         under {schedule}; seed {}",
        s.train.problems_per_step, s.train.samples_per_problem, s.seed
    )
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=119 => format!("{seconds:.1} s"),
        120..=7199 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Thousands apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_for_people() {
        assert_eq!(
            (grouped(0), grouped(1_234_567)),
            ("0".into(), "1\u{202f}234\u{202f}567".into())
        );
        let written = [17.94, 125.4, 7_260.0].map(duration);
        assert_eq!(written, ["17.9 s", "2 min 05 s", "2 h 01 min"]);
    }
}
