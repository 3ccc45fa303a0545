//! What evaluations said of checkpoints, kept beside the weights, and which checkpoint is the best.
//! Measuring is `eval_plan`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use serde::Deserialize;

use super::{CheckpointDir, RunDir, RunDirError};
use crate::eval_plan::EvalResult;
use crate::summary::write_json;

/// In a checkpoint's directory; the coordinator's, where all else there is the learner's.
const EVALUATION: &str = "evaluation.json";

/// The part of an evaluation that ranks checkpoints.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Evaluated {
    problems: u32,
    tandem_accuracy: BTreeMap<String, Option<f64>>,
}

impl Evaluated {
    fn schedules(&self) -> BTreeSet<&str> {
        self.tandem_accuracy.keys().map(String::as_str).collect()
    }

    /// Mean over the schedules; `None` where one was not measured, or there is none.
    fn mean(&self) -> Option<f64> {
        let sum: Option<f64> = self.tandem_accuracy.values().copied().sum();
        sum.filter(|_| !self.tandem_accuracy.is_empty())
            .map(|sum| sum / self.tandem_accuracy.len() as f64)
    }
}

impl RunDir {
    /// Keeps what an evaluation on held-out problems found with the checkpoint of that step, if
    /// there is one. A result over fewer problems than the one that is kept changes nothing.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn record_evaluation(&self, step: u32, result: &EvalResult) -> Result<(), RunDirError> {
        if result.test_set {
            // What is chosen by it could not be measured on it.
            return Ok(());
        }
        let all = self.checkpoints()?;
        let Some(checkpoint) = all.into_iter().find(|checkpoint| checkpoint.step == step) else {
            return Ok(());
        };
        if read(&checkpoint)?.is_some_and(|kept| kept.problems > result.problems) {
            return Ok(());
        }
        let path = checkpoint.path.join(EVALUATION);
        write_json(&path, result).map_err(|cause| RunDirError::Write { path, cause })
    }

    /// The checkpoint with the highest mean tandem accuracy over the schedules, among those that
    /// are kept and were evaluated under the schedules of the newest evaluated one. Of equals, the
    /// one that was measured on more problems, then the later one.
    pub(super) fn best(&self) -> Result<CheckpointDir, RunDirError> {
        let mut evaluated = Vec::new();
        for checkpoint in self.checkpoints()? {
            if let Some(found) = read(&checkpoint)? {
                evaluated.push((checkpoint, found));
            }
        }
        let newest = evaluated.last().map(|(_, found)| found.clone());
        let ranked = evaluated.into_iter().filter_map(|(checkpoint, found)| {
            let alike = newest.as_ref().is_some_and(|new| new.schedules() == found.schedules());
            let mean = found.mean().filter(|_| alike)?;
            Some(((mean, found.problems, checkpoint.step), checkpoint))
        });
        let best = ranked.max_by(|((a, m, s), _), ((b, n, t), _)| {
            a.total_cmp(b).then_with(|| (m, s).cmp(&(n, t)))
        });
        best.map(|(_, checkpoint)| checkpoint)
            .ok_or_else(|| RunDirError::NotEvaluated(self.shown.clone()))
    }
}

fn read(checkpoint: &CheckpointDir) -> Result<Option<Evaluated>, RunDirError> {
    let path = checkpoint.path.join(EVALUATION);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|cause| RunDirError::Read { path: path.clone(), cause })?,
    };
    let fault = |source: serde_json::Error| RunDirError::Read { path, cause: source.into() };
    serde_json::from_str(&text).map(Some).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::CheckpointChoice;

    fn result(problems: u32, token: Option<f64>, line: Option<f64>) -> EvalResult {
        let mut result = EvalResult { problems, ..EvalResult::default() };
        result.tandem_accuracy.push("token:0.25", token);
        result.tandem_accuracy.push("line:0.5", line);
        result
    }

    fn run(steps: &[u32]) -> (tempfile::TempDir, RunDir) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("config.toml"), "").unwrap();
        for step in steps {
            let dir = root.path().join(format!("checkpoints/step-{step:06}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("state.json"), "{}").unwrap();
        }
        let run = RunDir::open(root.path()).unwrap();
        (root, run)
    }

    fn best(run: &RunDir) -> u32 {
        run.checkpoint(CheckpointChoice::Best).unwrap().step
    }

    #[test]
    fn the_best_has_the_highest_mean_over_the_schedules() {
        let (_root, run) = run(&[10, 20, 30, 40]);
        let error = run.checkpoint(CheckpointChoice::Best).unwrap_err().to_string();
        assert!(
            error.contains("coordinator eval") && error.contains("eval.every_steps"),
            "{error}"
        );
        run.record_evaluation(10, &result(100, Some(0.5), Some(0.7))).unwrap();
        run.record_evaluation(20, &result(100, Some(0.9), Some(0.1))).unwrap();
        run.record_evaluation(30, &result(100, Some(0.6), Some(0.6))).unwrap();
        assert_eq!(best(&run), 30, "of equal means the later one");
        run.record_evaluation(10, &result(200, Some(0.5), Some(0.7))).unwrap();
        assert_eq!(best(&run), 10, "of equal means the one with more problems");
        run.record_evaluation(40, &result(50, Some(0.9), None)).unwrap();
        assert_eq!(best(&run), 10, "a schedule that was not measured ranks nothing");
        let test = EvalResult { test_set: true, ..result(900, Some(1.0), Some(1.0)) };
        run.record_evaluation(20, &test).unwrap();
        assert_eq!(best(&run), 10, "nothing is chosen by the test set");
        run.record_evaluation(50, &result(50, Some(1.0), Some(1.0))).unwrap();
        assert_eq!(best(&run), 10, "a checkpoint that is gone is no candidate");
    }

    #[test]
    fn fewer_problems_do_not_replace_more_and_other_schedules_do_not_compare() {
        let (_root, run) = run(&[10, 20]);
        run.record_evaluation(10, &result(100, Some(0.5), Some(0.5))).unwrap();
        run.record_evaluation(10, &result(10, Some(1.0), Some(1.0))).unwrap();
        run.record_evaluation(20, &result(100, Some(0.6), Some(0.6))).unwrap();
        assert_eq!(best(&run), 20);
        let mut other = EvalResult { problems: 100, ..EvalResult::default() };
        other.tandem_accuracy.push("word:0.5", Some(0.1));
        run.record_evaluation(20, &other).unwrap();
        assert_eq!(best(&run), 20, "10 was measured under other schedules");
    }
}
