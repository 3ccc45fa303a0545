//! How many of each problem's rollouts each grader marks right, and the pass@k that follows. The
//! rollouts' own verdicts, which rewards come from, are tallied elsewhere.

use serde::{Deserialize, Serialize};
use tandem::GraderKind;
use types::{Problem, Rollout};

use crate::intervals::{Estimate, estimates, pass_at};

/// One arm's marks. All graders read the same texts.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    graders: Vec<GraderKind>,
    samples: u32,
    /// Right ones, by grader and problem.
    right: Vec<Vec<u32>>,
}

/// One line of an evaluation's pass@k.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassAt {
    /// `solo`, `solo_greedy`, `weak_solo`, or a schedule.
    pub arm: String,
    pub grader: String,
    pub k: u32,
    /// Rollouts of each problem.
    pub samples: u32,
    pub value: f64,
    /// Of the 95% interval.
    pub low: f64,
    pub high: f64,
}

impl Marks {
    pub(super) fn new(graders: &[GraderKind], samples: u32, problems: u32) -> Self {
        let right = vec![vec![0; problems as usize]; graders.len()];
        Self { graders: graders.to_vec(), samples, right }
    }

    pub(super) fn add(&mut self, ordinal: usize, problem: &Problem, rollout: &Rollout) {
        let parts = rollout.parts();
        for (grader, right) in self.graders.iter().zip(&mut self.right) {
            let text = &parts.verdict.text;
            let grade = match grader {
                GraderKind::Miniature | GraderKind::Gsm8k => {
                    grader.grade(text, &problem.answer, parts.finish)
                }
                // As published: these also read a text that was cut off.
                _ => grader.read(text, &problem.answer),
            };
            right[ordinal] += u32::from(grade.correct);
        }
    }

    /// The share of each problem's rollouts that the first grader marks right.
    pub(super) fn shares(&self) -> Vec<f64> {
        let right = self.right.first().map_or(&[][..], Vec::as_slice);
        right.iter().map(|correct| f64::from(*correct) / f64::from(self.samples)).collect()
    }

    /// Every grader's pass@k for each of `ks` that there are samples for.
    pub(super) fn pass_at<'a>(
        &'a self,
        arm: &'a str,
        ks: &'a [u32],
    ) -> impl Iterator<Item = Measure> + 'a {
        let each = |right: &[u32], k: u32| -> Vec<f64> {
            right.iter().map(|correct| pass_at(k, self.samples, *correct)).collect()
        };
        let graded = self.graders.iter().zip(&self.right);
        graded.flat_map(move |(grader, right)| {
            let ks = ks.iter().filter(|k| **k <= self.samples);
            ks.map(move |k| Measure {
                arm: arm.to_owned(),
                grader: grader.name(),
                k: *k,
                samples: self.samples,
                values: each(right, *k),
            })
        })
    }
}

/// One pass@k before its mean is taken.
pub(super) struct Measure {
    arm: String,
    grader: &'static str,
    k: u32,
    samples: u32,
    /// By problem.
    values: Vec<f64>,
}

/// All measures are resampled together, so that their intervals are of the same problems.
pub(super) fn conclude(measures: Vec<Measure>, seed: u64) -> Vec<PassAt> {
    let (values, names): (Vec<_>, Vec<_>) =
        measures.into_iter().map(|m| (m.values, (m.arm, m.grader, m.k, m.samples))).unzip();
    let found = names.into_iter().zip(estimates(&values, seed));
    let line = |((arm, grader, k, samples), estimate): ((_, &str, _, _), Option<Estimate>)| {
        let Estimate { value, low, high } = estimate?;
        Some(PassAt { arm, grader: grader.to_owned(), k, samples, value, low, high })
    };
    found.filter_map(line).collect()
}
