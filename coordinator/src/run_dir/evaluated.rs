//! What evaluations said of checkpoints, kept beside the weights, and which checkpoint is the best.
//! Measuring is `eval_plan`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{RunDir, RunDirError, STEP_PREFIX};
use crate::eval_plan::EvalResult;
use crate::summary::write_json;

/// In a checkpoint's directory; the coordinator's, where all else there is the learner's.
const EVALUATION: &str = "evaluation.json";
/// Of checkpoints that are not in the run's directory.
const APART: &str = "evaluated";

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
    /// Keeps what an evaluation on held-out problems found with the checkpoint of that step: beside
    /// the weights, or, where those lie on another machine, in `evaluated/`. A result over fewer
    /// problems than the one that is kept, or without a tandem accuracy, changes nothing.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn record_evaluation(&self, step: u32, result: &EvalResult) -> Result<(), RunDirError> {
        // What is chosen by the test set could not be measured on it; and a probe, or what else measures
        // nothing that ranks, does not take the place of what does.
        if result.test_set || result.tandem_accuracy.iter().next().is_none() {
            return Ok(());
        }
        if self.evaluated(step)?.is_some_and(|kept| kept.problems > result.problems) {
            return Ok(());
        }
        let path = match self.evaluation_beside(step) {
            beside if beside.parent().is_some_and(Path::is_dir) => beside,
            // Only of a run that trains there may be a checkpoint elsewhere.
            _ if self.journal().is_file() => self.evaluation_apart(step),
            _ => return Ok(()),
        };
        let fault = |cause| RunDirError::Write { path: path.clone(), cause };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(fault)?;
        write_json(&path, result).map_err(fault)
    }

    /// Of steps after this one, which are undone, what lies apart from checkpoints goes.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn forget_evaluations_after(&self, step: u32) -> Result<(), RunDirError> {
        let dir = self.path.join(APART);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|cause| RunDirError::Read { path: dir, cause })?,
        };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let of = name.to_str().and_then(|name| name.strip_prefix(STEP_PREFIX));
            let of = of.and_then(|name| name.strip_suffix(".json")).and_then(|of| of.parse().ok());
            if of.is_some_and(|of: u32| of > step) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|cause| RunDirError::Write { path, cause })?;
            }
        }
        Ok(())
    }

    fn evaluation_beside(&self, step: u32) -> PathBuf {
        self.checkpoint_dir(step).path.join(EVALUATION)
    }

    fn evaluation_apart(&self, step: u32) -> PathBuf {
        self.path.join(APART).join(format!("{STEP_PREFIX}{step:06}.json"))
    }

    fn evaluated(&self, step: u32) -> Result<Option<Evaluated>, RunDirError> {
        match read(&self.evaluation_beside(step))? {
            None => read(&self.evaluation_apart(step)),
            beside => Ok(beside),
        }
    }

    /// Of these checkpoints, the one with the highest mean tandem accuracy over the schedules, among
    /// those that were evaluated under the schedules of the newest evaluated one. Of equals, the one
    /// that was measured on more problems, then the later one.
    pub(super) fn best(&self, steps: &BTreeSet<u32>) -> Result<u32, RunDirError> {
        let mut evaluated = Vec::new();
        for step in steps {
            if let Some(found) = self.evaluated(*step)? {
                evaluated.push((*step, found));
            }
        }
        let newest = evaluated.last().map(|(_, found)| found.clone());
        let ranked = evaluated.into_iter().filter_map(|(step, found)| {
            let alike = newest.as_ref().is_some_and(|new| new.schedules() == found.schedules());
            let mean = found.mean().filter(|_| alike)?;
            Some((mean, found.problems, step))
        });
        let best =
            ranked.max_by(|(a, m, s), (b, n, t)| a.total_cmp(b).then_with(|| (m, s).cmp(&(n, t))));
        best.map(|(.., step)| step).ok_or_else(|| RunDirError::NotEvaluated(self.shown.clone()))
    }
}

fn read(path: &Path) -> Result<Option<Evaluated>, RunDirError> {
    let fault = |cause| RunDirError::Read { path: path.to_owned(), cause };
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fault)?,
    };
    serde_json::from_str(&text).map(Some).map_err(|error| fault(error.into()))
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
        let probe = EvalResult { problems: 100, ..EvalResult::default() };
        run.record_evaluation(30, &probe).unwrap();
        assert_eq!(best(&run), 30, "a probe replaces no evaluation");
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

    #[test]
    fn checkpoints_that_lie_elsewhere_are_ranked_with_those_here() {
        let (root, run) = run(&[10, 20]);
        let elsewhere = [10, 40].into();
        run.record_evaluation(40, &result(100, Some(0.9), Some(0.9))).unwrap();
        let latest = run.choose(CheckpointChoice::Latest, &elsewhere).unwrap();
        assert_eq!(latest, 40);
        assert!(run.choose(CheckpointChoice::Best, &elsewhere).is_err(), "no run that trains");
        fs::write(root.path().join("journal"), "").unwrap();
        for (step, accuracy) in [(10, 0.5), (40, 0.9), (60, 1.0)] {
            let result = result(100, Some(accuracy), Some(accuracy));
            run.record_evaluation(step, &result).unwrap();
        }
        run.record_evaluation(40, &result(10, Some(0.1), Some(0.1))).unwrap();
        let best = || run.choose(CheckpointChoice::Best, &elsewhere).unwrap();
        assert_eq!(best(), 40, "60 is nowhere");
        let error = run.choose(CheckpointChoice::Step(30), &elsewhere).unwrap_err().to_string();
        assert!(error.contains("step 30; there are 10, 20, 40"), "{error}");
        run.forget_evaluations_after(39).unwrap();
        assert_eq!(best(), 10, "what was undone ranks nothing");
    }
}
