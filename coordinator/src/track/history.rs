//! What the run has done up to a step, read back from its own files: for a tracker that begins after
//! the run did, or that begins anew.

use std::path::PathBuf;
use std::time::Duration;

use super::record::Record;
use super::worker::SinkError;
use super::{Standing, millis};
use crate::run_dir::RunDir;
use crate::run_lines::{EvalLine, StepLine, lines};

#[derive(Clone, Debug)]
pub(super) struct History {
    metrics: PathBuf,
    evaluations: PathBuf,
    began_ms: u64,
    step: u32,
    /// The evaluation before training, which stands in none of the files.
    before: Option<Record>,
}

impl History {
    pub(super) fn new(run_dir: &RunDir, began_ms: u64, standing: &Standing) -> Self {
        let before = standing.before.map(|result| Record::of_evaluation(0, result, began_ms));
        Self {
            metrics: run_dir.metrics(),
            evaluations: run_dir.evaluations(),
            began_ms,
            step: standing.step,
            before,
        }
    }

    /// The last step of it.
    pub(super) fn step(&self) -> u32 {
        self.step
    }

    /// The same, up to this step.
    pub(super) fn up_to(&self, step: u32) -> Self {
        Self { step, ..self.clone() }
    }

    /// What is known only while it passes by.
    pub(super) fn note(&mut self, records: &[Record]) {
        if let Some(before) = records.iter().find(|record| record.step == 0) {
            self.before = Some(before.clone());
        }
    }

    /// In the order of steps.
    pub(super) fn records(&self) -> Result<Vec<Record>, SinkError> {
        let unread = |error: &dyn std::fmt::Display| SinkError::Passing(error.to_string());
        let at = |seconds: f64| {
            let wall = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            self.began_ms + millis(wall)
        };
        let steps: Vec<StepLine> = lines(&self.metrics).map_err(|e| unread(&e))?;
        let steps = steps.iter().filter(|line| line.step <= self.step).map(|line| {
            let tokens = (line.tokens.strong, line.tokens.weak);
            Record::of_line(line.step, at(line.wall_seconds), (&line.values, tokens))
        });
        let evaluations: Vec<EvalLine> = lines(&self.evaluations).map_err(|e| unread(&e))?;
        let evaluations = evaluations.iter().filter(|line| line.step <= self.step);
        let evaluations = evaluations
            .map(|line| Record::of_evaluation(line.step, &line.result, at(line.wall_seconds)));
        let mut all: Vec<Record> =
            self.before.iter().cloned().chain(steps).chain(evaluations).collect();
        all.sort_by_key(|record| record.step);
        Ok(all)
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        let nowhere = PathBuf::from("/nowhere");
        Self { metrics: nowhere.clone(), evaluations: nowhere, began_ms: 0, step: 0, before: None }
    }
}
