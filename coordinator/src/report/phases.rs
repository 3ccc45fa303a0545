//! Where the learner's time goes: the mean seconds of a step by phase, as a bar for each run.

use serde::Serialize;

use super::curves::SECONDS;
use super::record::Record;

/// In the order in which a step passes through them; what else there is comes after.
const PHASES: [&str; 6] = ["wait", "forward", "backward", "update", "checkpoint", "publish"];

#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) run: usize,
    pub(super) seconds: String,
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Part {
    /// Of the page's colours.
    pub(super) colour: usize,
    pub(super) phase: String,
    pub(super) seconds: String,
    /// Of the longest bar.
    pub(super) percent: String,
}

/// Colour, phase, seconds of a step.
type Mean = (usize, String, f64);

/// One bar a run; runs without a step have none.
pub(super) fn bars(records: &[Record]) -> Vec<Bar> {
    let all: Vec<(usize, Vec<Mean>)> = records
        .iter()
        .enumerate()
        .map(|(run, record)| (run, means(record)))
        .filter(|(_, means)| !means.is_empty())
        .collect();
    let total = |means: &[Mean]| means.iter().map(|(_, _, s)| s).sum::<f64>();
    let longest = all.iter().map(|(_, means)| total(means)).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |(run, means): (usize, Vec<Mean>)| {
        let seconds = seconds(total(&means));
        let part = |(colour, phase, mean): Mean| Part {
            colour,
            phase,
            seconds: self::seconds(mean),
            percent: format!("{:.2}", 100.0 * mean / longest),
        };
        Bar { run, seconds, parts: means.into_iter().map(part).collect() }
    };
    all.into_iter().map(bar).collect()
}

/// Phases, each with its colour and its mean over all steps.
fn means(run: &Record) -> Vec<Mean> {
    let mut sums: Vec<(String, f64)> = PHASES.map(|phase| (phase.to_owned(), 0.0)).to_vec();
    for step in &run.steps {
        for (name, seconds) in &step.values {
            let Some(phase) = name.strip_prefix(SECONDS) else { continue };
            match sums.iter_mut().find(|(known, _)| known == phase) {
                Some((_, sum)) => *sum += seconds,
                None => sums.push((phase.to_owned(), *seconds)),
            }
        }
    }
    let steps = run.steps.len().max(1) as f64;
    let sums = sums.into_iter().enumerate().filter(|(_, (_, sum))| *sum > 0.0);
    sums.map(|(colour, (phase, sum))| (colour, phase, sum / steps)).collect()
}

fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{:.0} ms", 1e3 * value) } else { format!("{value:.2} s") }
}
