//! What a step's line in `metrics.jsonl` says, over the steps: one chart a number, all runs in it.

use std::fmt::Write;

use super::chart::{Chart, Point, Range, Series};
use super::record::Record;
use crate::run_lines::StepLine;

/// A line of more points is thinned out: two for each pixel of a chart.
const POINTS_MAX: usize = 900;

/// The mean of so many steps is drawn over the steps themselves; of long runs, of more.
const MEAN_STEPS: usize = 5;
const MEANS_OF_A_RUN: usize = 40;

/// A chart with its heading.
#[derive(Debug, serde::Serialize)]
pub(super) struct Titled {
    pub(super) title: String,
    pub(super) note: &'static str,
    pub(super) svg: String,
}

/// What one line of a chart shows of a step.
type Reading = fn(&StepLine) -> Option<f64>;

struct Curve {
    title: &'static str,
    note: &'static str,
    unit: &'static str,
    range: Range,
    reading: Reading,
    /// Dashed, beside the first.
    second: Option<Reading>,
    /// How a value is written.
    decimals: usize,
}

const fn curve(title: &'static str, unit: &'static str, range: Range, reading: Reading) -> Curve {
    Curve { title, note: "", unit, range, reading, second: None, decimals: 3 }
}

fn value(step: &StepLine, name: &str) -> Option<f64> {
    step.values.get(name).copied()
}

fn curves() -> Vec<Curve> {
    use Range::{Auto, FromZero, Share};
    vec![
        Curve {
            note: "of the strong model's words that have a plain form",
            ..curve("Jargon", "share", Share, |s| value(s, "jargon_rate"))
        },
        Curve {
            note: "right answers among rollouts that the weak model wrote in",
            ..curve("Handoff success", "share", Share, |s| value(s, "handoff_success_rate"))
        },
        Curve {
            note: "mean over all rollouts of a step, as earned",
            ..curve("Reward", "reward", Share, |s| value(s, "reward_mean"))
        },
        curve("Loss", "per token", Auto, |s| value(s, "loss")),
        Curve {
            note: "from the run's start",
            ..curve("KL divergence", "nats per token", FromZero, |s| value(s, "kl"))
        },
        Curve {
            note: "before clipping",
            ..curve("Gradient norm", "norm", FromZero, |s| value(s, "grad_norm"))
        },
        Curve {
            note: "versions between the weights that wrote a token and those that it trains",
            ..curve("Staleness", "versions", FromZero, |s| value(s, "staleness_mean"))
        },
        Curve {
            note: "solid: strong model, dashed: weak model",
            second: Some(|s| Some(s.tokens.weak as f64)),
            decimals: 0,
            ..curve("Tokens of a step", "tokens", FromZero, |s| Some(s.tokens.strong as f64))
        },
        Curve {
            note: "of the learner, waiting for rollouts included",
            ..curve("Time of a step", "seconds", FromZero, step_seconds)
        },
        Curve {
            note: "of rollouts, without an end",
            ..curve("Cut off", "share", FromZero, |s| value(s, "truncated_share"))
        },
    ]
}

pub(super) const SECONDS: &str = "seconds_";

/// The sum of a step's phases.
fn step_seconds(step: &StepLine) -> Option<f64> {
    let mut phases = step.values.iter().filter(|(name, _)| name.starts_with(SECONDS)).peekable();
    phases.peek()?;
    Some(phases.map(|(_, seconds)| seconds).sum())
}

/// Those that any run has numbers for.
pub(super) fn charts(records: &[Record]) -> Vec<Titled> {
    let drawn = curves().into_iter().filter_map(|curve| {
        let series = records.iter().enumerate().flat_map(|(colour, run)| curve.lines(colour, run));
        let chart = Chart {
            label: curve.title,
            x_label: "step",
            y_label: curve.unit,
            range: curve.range,
            series: series.collect(),
        };
        Some(Titled { title: curve.title.to_owned(), note: curve.note, svg: chart.svg()? })
    });
    drawn.collect()
}

impl Curve {
    /// The steps themselves in the background, and their running mean.
    fn lines(&self, colour: usize, run: &Record) -> Vec<Series> {
        let readings = [(self.reading, false)].into_iter().chain(self.second.map(|r| (r, true)));
        let mut lines = Vec::new();
        for (reading, dashed) in readings {
            let found = run.steps.iter().filter_map(|s| Some((f64::from(s.step), reading(s)?)));
            let found: Vec<(f64, f64)> = found.collect();
            if found.is_empty() {
                continue;
            }
            let reach = MEAN_STEPS.max(found.len() / MEANS_OF_A_RUN) / 2;
            let means = thinned(&running_means(&found, reach));
            let mean = |(x, mean): (f64, f64)| Point { x, y: mean, tip: self.tip(run, x, mean) };
            let plain = |(x, y)| Point { x, y, tip: String::new() };
            let line = |faint, points| Series { colour, dashed, faint, mark: None, points };
            lines.push(line(true, thinned(&found).into_iter().map(plain).collect()));
            lines.push(line(false, means.into_iter().map(mean).collect()));
        }
        lines
    }

    fn tip(&self, run: &Record, step: f64, mean: f64) -> String {
        let (decimals, name, unit) = (self.decimals, &run.name, self.unit);
        let mut tip = format!("{name}, around step {step:.0}: {mean:.decimals$}");
        if !matches!(unit, "share" | "reward" | "norm") {
            write!(tip, " {unit}").expect("a string takes what is written");
        }
        tip
    }
}

/// Of each value and as many as `reach` on either side, as far as there are any.
fn running_means(values: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let mean = |index: usize| {
        let end = (index + reach + 1).min(values.len());
        let window = &values[index.saturating_sub(reach)..end];
        window.iter().map(|(_, y)| y).sum::<f64>() / window.len() as f64
    };
    values.iter().enumerate().map(|(index, (x, _))| (*x, mean(index))).collect()
}

/// Every so-and-so-manieth, the last one included.
fn thinned(values: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = values.len().div_ceil(POINTS_MAX).max(1);
    let last = values.len().saturating_sub(1);
    let kept = values.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last);
    kept.map(|(_, value)| *value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_what_is_there() {
        let values = [(1.0, 1.0), (2.0, 2.0), (3.0, 6.0), (4.0, 0.0)];
        let means = running_means(&values, 1);
        assert_eq!(means, [(1.0, 1.5), (2.0, 3.0), (3.0, 8.0 / 3.0), (4.0, 3.0)]);
        assert_eq!(running_means(&values, 0), values);
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_ends() {
        let values: Vec<(f64, f64)> = (0..10_001).map(|x| (f64::from(x), 0.0)).collect();
        let kept = thinned(&values);
        assert!((400..=POINTS_MAX + 1).contains(&kept.len()), "{}", kept.len());
        assert_eq!((kept[0].0, kept[kept.len() - 1].0), (0.0, 10_000.0));
    }
}
