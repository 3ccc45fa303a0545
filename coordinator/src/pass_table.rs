//! pass@k by arm and grader with its intervals, as a person reads it.

use std::fmt::Write;

use crate::eval_plan::PassAt;

/// One row per arm and k, one column per grader; empty where nothing was measured.
#[must_use]
pub fn pass_table(lines: &[PassAt]) -> String {
    let graders = distinct(lines.iter().map(|line| line.grader.as_str()));
    let arms = distinct(lines.iter().map(|line| line.arm.as_str()));
    let ks = distinct(lines.iter().map(|line| line.k));
    if lines.is_empty() {
        return String::new();
    }
    let title = "accuracy [95% interval]";
    let width = arms.iter().map(|arm| name(arm).chars().count()).max().unwrap_or_default();
    let width = width.max(title.len() - "  pass@1".len());
    let mut text = format!("{title:width$}", width = width + "  pass@1".len());
    for grader in &graders {
        write!(text, "  {grader:>20}").expect("a string takes what is written");
    }
    text.push('\n');
    for (arm, k) in arms.iter().flat_map(|arm| ks.iter().map(move |k| (*arm, *k))) {
        let mut row = format!("{:width$}  pass@{k}", name(arm));
        let mut measured = false;
        for grader in &graders {
            let line = lines.iter().find(|l| l.arm == arm && l.k == k && l.grader == *grader);
            let cell = line.map_or_else(|| "–".to_owned(), cell);
            measured |= line.is_some();
            write!(row, "  {cell:>20}").expect("a string takes what is written");
        }
        if measured {
            text.push_str(&row);
            text.push('\n');
        }
    }
    text
}

fn cell(line: &PassAt) -> String {
    format!("{:.3} [{:.3}, {:.3}]", line.value, line.low, line.high)
}

fn name(arm: &str) -> String {
    match arm {
        "solo" => "strong alone, sampled".to_owned(),
        "solo_greedy" => "strong alone, greedy".to_owned(),
        "weak_solo" => "weak alone, sampled".to_owned(),
        "weak_after_plain" => "weak alone, after plain gold".to_owned(),
        "weak_after_annotated" => "weak alone, after annotated gold".to_owned(),
        "tandem_led_plain" => "tandem, led into plain style".to_owned(),
        "tandem_led_annotated" => "tandem, led into annotations".to_owned(),
        schedule => format!("tandem, {schedule}"),
    }
}

/// In the order of their first appearance.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for value in values {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_an_arm_has_rows_for_what_it_measured() {
        let line = |arm: &str, grader: &str, k, value| PassAt {
            arm: arm.to_owned(),
            grader: grader.to_owned(),
            k,
            samples: 4,
            value,
            low: value - 0.05,
            high: value + 0.05,
        };
        let lines = [
            line("solo", "own", 1, 0.5),
            line("solo", "own", 4, 0.75),
            line("solo", "lm-eval-strict", 1, 0.25),
            line("solo", "lm-eval-strict", 4, 0.625),
            line("solo_greedy", "own", 1, 0.5),
            line("token:0.25", "own", 1, 0.125),
        ];
        let expected = "\
accuracy [95% interval]                         own        lm-eval-strict
strong alone, sampled  pass@1  0.500 [0.450, 0.550]  0.250 [0.200, 0.300]
strong alone, sampled  pass@4  0.750 [0.700, 0.800]  0.625 [0.575, 0.675]
strong alone, greedy   pass@1  0.500 [0.450, 0.550]                     –
tandem, token:0.25     pass@1  0.125 [0.075, 0.175]                     –
";
        assert_eq!(pass_table(&lines), expected);
        assert_eq!(pass_table(&[]), "");
    }
}
