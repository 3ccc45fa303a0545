//! The table before and after, as a person reads it.

use std::fmt::Write;

use crate::eval_plan::EvalResult;

/// One column of results under its heading.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    pub heading: &'a str,
    pub result: Option<&'a EvalResult>,
}

type Reading = Box<dyn Fn(&EvalResult) -> Option<f64>>;

/// One row per measure, one column per evaluation; a dash where nothing was measured.
#[must_use]
pub fn table(columns: &[Column]) -> String {
    let rows = rows(columns);
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let result = columns.iter().find_map(|column| column.result);
    let problems = result.map_or(0, |result| result.problems);
    let kind = if result.is_some_and(|result| result.test_set) { "test" } else { "held-out" };
    let title = format!("{problems} {kind} problems");
    let width = width.max(title.len());
    let mut text = format!("{title:width$}");
    for column in columns {
        write!(text, "  {:>8}", column.heading).expect("a string takes what is written");
    }
    text.push('\n');
    for (name, reading) in &rows {
        write!(text, "{name:width$}").expect("a string takes what is written");
        for column in columns {
            let cell = column.result.and_then(reading);
            let cell = cell.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
            write!(text, "  {cell:>8}").expect("a string takes what is written");
        }
        text.push('\n');
    }
    text
}

fn rows(columns: &[Column]) -> Vec<(String, Reading)> {
    let mut rows: Vec<(String, Reading)> = vec![
        ("strong alone, sampled".to_owned(), Box::new(|r| r.solo_accuracy)),
        ("strong alone, greedy".to_owned(), Box::new(|r| r.solo_accuracy_greedy)),
    ];
    let schedules: Vec<String> = columns
        .iter()
        .find_map(|column| column.result)
        .map(|result| result.tandem_accuracy.iter().map(|(name, _)| name.to_owned()).collect())
        .unwrap_or_default();
    for name in &schedules {
        let schedule = name.clone();
        let reading: Reading = Box::new(move |r| r.tandem_accuracy.get(&schedule));
        rows.push((format!("tandem, {name}"), reading));
    }
    for name in &schedules {
        let schedule = name.clone();
        let reading: Reading = Box::new(move |r| r.handoff_success_rate.get(&schedule));
        rows.push((format!("handoff success, {name}"), reading));
    }
    rows.push(("jargon of the strong model".to_owned(), Box::new(|r| r.jargon_rate)));
    rows.push(("weak alone, sampled".to_owned(), Box::new(|r| r.weak_solo_accuracy)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_gaps_are_dashes() {
        let mut before = EvalResult { problems: 1000, ..EvalResult::default() };
        before.solo_accuracy = Some(0.998);
        before.tandem_accuracy.push("token:0.25", Some(0.3849));
        before.handoff_success_rate.push("token:0.25", Some(0.38));
        let mut after = before.clone();
        after.jargon_rate = Some(0.03);
        let text = table(&[
            Column { heading: "before", result: Some(&before) },
            Column { heading: "after", result: Some(&after) },
        ]);
        let expected = "\
1000 held-out problems         before     after
strong alone, sampled           0.998     0.998
strong alone, greedy                –         –
tandem, token:0.25              0.385     0.385
handoff success, token:0.25     0.380     0.380
jargon of the strong model          –     0.030
weak alone, sampled                 –         –
";
        assert_eq!(text, expected);
    }
}
