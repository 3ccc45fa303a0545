//! What evaluations found, over the steps that they were made after, and the headline numbers that
//! follow. Held-out problems only.

use serde::Serialize;

use super::chart::{Chart, Mark, Point, Range, Series};
use super::curves::Titled;
use super::record::{Evaluated, Record};
use crate::eval_plan::EvalResult;

/// The numbers that a run is about, before training and last.
#[derive(Debug, Serialize)]
pub(super) struct Headline {
    pub(super) schedule: String,
    pub(super) last: String,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) note: &'static str,
    pub(super) before: String,
    pub(super) after: String,
}

/// None where nothing was evaluated.
pub(super) fn headline(run: &Record) -> Option<Headline> {
    let found = run.latest().or(run.before.as_ref())?;
    let schedule = found.result.handoff_success_rate.iter().next().map(|(name, _)| name.to_owned());
    let schedule = schedule.unwrap_or_default();
    let handoff = |result: &EvalResult| result.handoff_success_rate.get(&schedule);
    let quotient = |result: &EvalResult| {
        let solo = result.solo_accuracy.filter(|solo| *solo > 0.0)?;
        Some(handoff(result)? / solo)
    };
    let row = |name: &str, note, reading: &dyn Fn(&EvalResult) -> Option<f64>| Row {
        name: name.to_owned(),
        note,
        before: shown(run.before.as_ref().and_then(|before| reading(&before.result))),
        after: shown(run.latest().and_then(|latest| reading(&latest.result))),
    };
    let rows = vec![
        row("Handoff success", "right answers where the weak model wrote", &handoff),
        row("Solo accuracy", "the strong model alone, sampled", &|result| result.solo_accuracy),
        row("Quotient", "handoff success / solo accuracy", &quotient),
        row("Jargon", "of the strong model's own words", &|result| result.jargon_rate),
    ];
    Some(Headline { schedule, last: last_name(run), rows })
}

/// What the column of the latest evaluation is called.
fn last_name(run: &Record) -> String {
    match (&run.after, run.during.last()) {
        (None, Some(during)) => format!("step {}", during.step),
        _ => "after".to_owned(),
    }
}

/// Three decimals; a dash where nothing was measured.
pub(super) fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// Schedules of all runs, in the order in which they come.
pub(super) fn schedules(records: &[Record]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for evaluated in records.iter().flat_map(Record::evaluations) {
        for (name, _) in evaluated.result.tandem_accuracy.iter() {
            if !found.iter().any(|known| known == name) {
                found.push(name.to_owned());
            }
        }
    }
    found
}

/// Solo accuracy, handoff success under each schedule, jargon.
pub(super) fn charts(records: &[Record]) -> Vec<Titled> {
    let mut charts = Vec::new();
    let mut add = |title: String, note, reading: &dyn Fn(&EvalResult) -> Option<f64>| {
        let lines = records.iter().enumerate().map(|(colour, run)| line(colour, run, reading));
        let series: Vec<Series> = lines.filter(|line| !line.points.is_empty()).collect();
        let (label, range) = (title.as_str(), Range::Share);
        let chart = Chart { label, x_label: "step", y_label: "share", range, series };
        let svg = chart.svg();
        charts.extend(svg.map(|svg| Titled { title, note, svg }));
    };
    add("Solo accuracy".to_owned(), "the strong model alone, sampled", &|r| r.solo_accuracy);
    for schedule in schedules(records) {
        let title = format!("Handoff success, {schedule}");
        let note = "right answers among rollouts that the weak model wrote in";
        add(title, note, &|result| result.handoff_success_rate.get(&schedule));
    }
    add("Jargon".to_owned(), "of the strong model's own words", &|result| result.jargon_rate);
    charts
}

fn line(colour: usize, run: &Record, reading: &dyn Fn(&EvalResult) -> Option<f64>) -> Series {
    let point = |Evaluated { step, result }: &Evaluated| {
        let (x, y) = (f64::from(*step), reading(result)?);
        let tip = format!("{}, step {step}: {y:.3} of {} problems", run.name, result.problems);
        Some(Point { x, y, tip })
    };
    let points = run.evaluations().filter_map(point).collect();
    Series { colour, dashed: false, faint: false, mark: Some(Mark::Circle), points }
}
