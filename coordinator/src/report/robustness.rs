//! The robustness curve: accuracy against how much the weak model writes, before training and last.
//! Alone the strong model is at 0 and the weak one at 1.

use serde::Serialize;
use tandem::Schedule;

use super::chart::{Chart, MARKS, Mark, Point, Range, Series};
use super::record::Record;
use crate::eval_plan::EvalResult;

#[derive(Debug, Serialize)]
pub(super) struct Robustness {
    pub(super) svg: String,
    /// A mark's shape and what it stands for.
    pub(super) kinds: Vec<Kind>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Kind {
    pub(super) mark: &'static str,
    pub(super) name: String,
}

/// A point of one evaluation.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    /// Of the kinds of schedules; none: one model alone.
    kind: Option<usize>,
    share: f64,
    accuracy: f64,
    schedule: String,
}

/// None where nothing was evaluated in tandem.
pub(super) fn robustness(records: &[Record]) -> Option<Robustness> {
    let mut kinds = Vec::new();
    let mut series = Vec::new();
    for (colour, run) in records.iter().enumerate() {
        let stages = [(run.before.as_ref(), true), (run.latest(), false)];
        for (evaluated, dashed) in stages {
            let Some(evaluated) = evaluated else { continue };
            let weak_alone = run.evaluations().find_map(|e| e.result.weak_solo_accuracy);
            let places = places(&evaluated.result, weak_alone, &mut kinds);
            let when = match (dashed, evaluated.step) {
                (true, _) => "before training".to_owned(),
                (false, step) => format!("after step {step}"),
            };
            series.extend(lines((colour, dashed), &places, &|place| {
                let Place { schedule, accuracy, .. } = place;
                format!("{}, {when}, {schedule}: {accuracy:.3}", run.name)
            }));
        }
    }
    if kinds.is_empty() {
        return None;
    }
    let chart = Chart {
        label: "Accuracy against the share of the weak model",
        x_label: "weak model's probability or share",
        y_label: "accuracy",
        range: Range::Share,
        series,
    };
    let kinds = kinds.into_iter().enumerate();
    let kinds = kinds.map(|(at, name)| Kind { mark: symbol(mark(at)), name });
    Some(Robustness { svg: chart.svg()?, kinds: kinds.collect() })
}

fn places(result: &EvalResult, weak_alone: Option<f64>, kinds: &mut Vec<String>) -> Vec<Place> {
    let alone = |share, accuracy: Option<f64>, name: &str| {
        let schedule = name.to_owned();
        accuracy.map(|accuracy| Place { kind: None, share, accuracy, schedule })
    };
    let mut found = Vec::new();
    found.extend(alone(0.0, result.solo_accuracy, "strong alone"));
    found.extend(alone(1.0, weak_alone, "weak alone"));
    for (name, accuracy) in result.tandem_accuracy.iter() {
        let (Some(accuracy), Ok(schedule)) = (accuracy, name.parse::<Schedule>()) else { continue };
        let (kind, share) = position(&schedule);
        let kind = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        });
        found.push(Place { kind: Some(kind), share, accuracy, schedule: name.to_owned() });
    }
    found.sort_by(|a, b| a.share.total_cmp(&b.share));
    found
}

/// What a schedule redraws, and how much of it the weak model may expect.
fn position(schedule: &Schedule) -> (String, f64) {
    match schedule {
        Schedule::Bernoulli { unit, p } => (unit.to_string(), *p),
        Schedule::Markov { p, stay } => (format!("markov, stay {stay}"), *p),
        Schedule::Alternate { unit } => (format!("alternate:{unit}"), 0.5),
        Schedule::Takeover { f } => ("takeover".to_owned(), 1.0 - f),
    }
}

/// A line for each kind of schedule, from the strong model alone to the weak one, with its marks.
fn lines(
    (colour, dashed): (usize, bool),
    places: &[Place],
    tip: &dyn Fn(&Place) -> String,
) -> Vec<Series> {
    let point = |place: &Place| Point { x: place.share, y: place.accuracy, tip: tip(place) };
    let kinds = places.iter().filter_map(|place| place.kind).max();
    let mut lines = Vec::new();
    for kind in 0..=kinds.unwrap_or(0) {
        let own = |place: &&Place| place.kind.is_none_or(|of| of == kind);
        let whole: Vec<Point> = places.iter().filter(own).map(point).collect();
        let marked = places.iter().filter(|place| place.kind == Some(kind)).map(point);
        let line = |mark, points| Series { colour, dashed, faint: false, mark, points };
        if whole.len() > 1 {
            lines.push(line(None, whole));
        }
        lines.extend(marked.map(|point| line(Some(mark(kind)), vec![point])));
    }
    let alone = places.iter().filter(|place| place.kind.is_none());
    lines.extend(alone.map(|place| Series {
        colour,
        dashed,
        faint: false,
        mark: Some(Mark::Diamond),
        points: vec![point(place)],
    }));
    lines
}

/// The last one is that of a model alone.
fn mark(kind: usize) -> Mark {
    MARKS[kind % (MARKS.len() - 1)]
}

fn symbol(mark: Mark) -> &'static str {
    match mark {
        Mark::Circle => "●",
        Mark::Square => "■",
        Mark::Triangle => "▲",
        Mark::Diamond => "◆",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_lie_where_the_weak_model_has_its_share() {
        let of = |text: &str| position(&text.parse().unwrap());
        assert_eq!(of("token:0.25"), ("token".to_owned(), 0.25));
        assert_eq!(of("chunk:8:0.5"), ("chunk:8".to_owned(), 0.5));
        assert_eq!(of("alternate:line"), ("alternate:line".to_owned(), 0.5));
        assert_eq!(of("takeover:0.75"), ("takeover".to_owned(), 0.25));
        assert_eq!(of("markov:0.3:0.8"), ("markov, stay 0.8".to_owned(), 0.3));
    }

    #[test]
    fn each_kind_has_a_line_from_one_model_alone_to_the_other() {
        let mut result = EvalResult { solo_accuracy: Some(1.0), ..EvalResult::default() };
        result.tandem_accuracy.push("token:0.25", Some(0.4));
        result.tandem_accuracy.push("line:0.5", Some(0.6));
        result.tandem_accuracy.push("token:0.1", Some(0.7));
        let mut kinds = Vec::new();
        let places = places(&result, Some(0.9), &mut kinds);
        assert_eq!(kinds, ["token", "line"]);
        let lines = lines((3, true), &places, &|place| place.schedule.clone());
        let drawn: Vec<Vec<(f64, f64)>> = lines
            .iter()
            .filter(|line| line.mark.is_none())
            .map(|line| line.points.iter().map(|p| (p.x, p.y)).collect())
            .collect();
        assert_eq!(drawn[0], [(0.0, 1.0), (0.1, 0.7), (0.25, 0.4), (1.0, 0.9)]);
        assert_eq!(drawn[1], [(0.0, 1.0), (0.5, 0.6), (1.0, 0.9)]);
        let tips: Vec<&str> = lines
            .iter()
            .filter(|line| line.mark == Some(Mark::Square))
            .map(|line| line.points[0].tip.as_str())
            .collect();
        assert_eq!(tips, ["line:0.5"]);
        assert!(lines.iter().all(|line| line.colour == 3 && line.dashed));
    }
}
