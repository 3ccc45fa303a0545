//! What a tracker is told: numbers by name at one step. Names are the same for all trackers.

use std::collections::BTreeMap;

use proto::StepRecord;

use crate::eval_plan::EvalResult;

/// Numbers of one step or of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// Steps taken.
    pub(super) step: u32,
    /// Milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Finite ones, by names such as `train/loss` and `eval/solo_accuracy`.
    pub(super) points: Vec<(String, f64)>,
}

impl Record {
    pub(super) fn of_step(record: &StepRecord, at_ms: u64) -> Self {
        let tokens = (record.strong_tokens, record.weak_tokens);
        Self::of_line(record.step, at_ms, (&record.values, tokens))
    }

    /// The same from a line of `metrics.jsonl`.
    pub(super) fn of_line(
        step: u32,
        at_ms: u64,
        (values, (strong, weak)): (&BTreeMap<String, f64>, (u64, u64)),
    ) -> Self {
        let tokens = [("tokens_strong", strong as f64), ("tokens_weak", weak as f64)];
        let tokens = tokens.into_iter().map(|(name, value)| (format!("train/{name}"), value));
        let values = values.iter().map(|(name, value)| (format!("train/{name}"), *value));
        let points = values.chain(tokens).filter(|(_, value)| value.is_finite());
        Self { step, at_ms, points: points.collect() }
    }

    pub(super) fn of_evaluation(step: u32, result: &EvalResult, at_ms: u64) -> Self {
        let numbers = result.numbers().into_iter();
        let points = numbers.map(|(name, value)| (format!("eval/{name}"), value));
        Self { step, at_ms, points: points.filter(|(_, value)| value.is_finite()).collect() }
    }
}
