//! `metrics.jsonl`: one line per committed step, on disk before the commit is answered.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::StepRecord;
use serde::{Deserialize, Serialize};

use crate::eval_plan::EvalResult;

#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {cause}; is the disk full?")]
pub struct LogError {
    path: PathBuf,
    cause: io::Error,
}

/// An append-only file of JSON lines.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

#[derive(Serialize)]
struct Line<'a> {
    step: u32,
    version: String,
    wall_seconds: f64,
    groups: Groups,
    tokens: Tokens,
    checkpoint: Option<&'a str>,
    values: &'a BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Groups {
    trained: u32,
    zero_variance: u32,
    dropped_stale: u32,
    duplicate_copies_refused: u32,
}

#[derive(Serialize)]
struct Tokens {
    strong: u64,
    weak: u64,
}

#[derive(Serialize)]
struct EvalLine<'a> {
    step: u32,
    wall_seconds: f64,
    #[serde(flatten)]
    result: &'a EvalResult,
}

impl MetricsLog {
    /// # Errors
    /// A file that cannot be written.
    pub fn create(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|cause| LogError { path: path.to_owned(), cause })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Takes away the lines of later steps. The file is replaced, so that a reader meets the old
    /// one or the new one.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn cut_after(&mut self, step: u32) -> Result<(), LogError> {
        let fault = |cause| LogError { path: self.path.clone(), cause };
        let text = fs::read_to_string(&self.path).map_err(fault)?;
        let kept = text.lines().filter(|line| step_of(line).is_some_and(|of| of <= step));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        let partial = self.path.with_extension("jsonl.partial");
        fs::write(&partial, kept).map_err(fault)?;
        fs::rename(&partial, &self.path).map_err(fault)?;
        *self = Self::create(&self.path)?;
        Ok(())
    }

    /// # Errors
    /// A write that fails.
    pub fn step(&mut self, record: &StepRecord, wall: Duration) -> Result<(), LogError> {
        self.write(&Line {
            step: record.step,
            version: record.version.to_string(),
            wall_seconds: millis(wall),
            groups: Groups {
                trained: record.groups_trained,
                zero_variance: record.groups_zero_variance,
                dropped_stale: record.groups_stale,
                duplicate_copies_refused: record.duplicates_refused,
            },
            tokens: Tokens { strong: record.strong_tokens, weak: record.weak_tokens },
            checkpoint: record.checkpoint.as_deref(),
            values: &record.values,
        })
    }

    /// An interleaved evaluation, in a file of its own.
    ///
    /// # Errors
    /// A write that fails.
    pub fn evaluation(
        &mut self,
        step: u32,
        result: &EvalResult,
        wall: Duration,
    ) -> Result<(), LogError> {
        self.write(&EvalLine { step, wall_seconds: millis(wall), result })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), LogError> {
        let fault = |cause| LogError { path: self.path.clone(), cause };
        let mut text = serde_json::to_vec(line).map_err(|e| fault(e.into()))?;
        text.push(b'\n');
        // One write call, so that a kill in between leaves whole lines.
        self.file.write_all(&text).map_err(fault)
    }
}

/// `None` for what a crash left of a line.
fn step_of(line: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Step {
        step: u32,
    }
    Some(serde_json::from_str::<Step>(line).ok()?.step)
}

fn millis(wall: Duration) -> f64 {
    wall.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use types::{MemberId, PolicyVersion};

    use super::*;

    #[test]
    fn one_line_per_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let mut log = MetricsLog::create(&path).unwrap();
        let mut record = StepRecord {
            member: MemberId(1),
            step: 1,
            version: PolicyVersion::new(1, 1),
            groups: (0..8).map(types::GroupId).collect(),
            groups_trained: 7,
            groups_zero_variance: 1,
            groups_stale: 2,
            duplicates_refused: 3,
            strong_tokens: 900,
            weak_tokens: 300,
            values: [("reward".to_owned(), 0.5)].into(),
            checkpoint: None,
        };
        log.step(&record, Duration::from_millis(1_250)).unwrap();
        record.step = 2;
        record.checkpoint = Some("step-000002".to_owned());
        log.step(&record, Duration::from_millis(2_500)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let first = r#"{"step":1,"version":"g1s1","wall_seconds":1.25,"groups":{"trained":7,"zero_variance":1,"dropped_stale":2,"duplicate_copies_refused":3},"tokens":{"strong":900,"weak":300},"checkpoint":null,"values":{"reward":0.5}}"#;
        assert_eq!(text.lines().next(), Some(first));
        assert!(text.lines().nth(1).unwrap().contains(r#""checkpoint":"step-000002""#));
        assert_eq!(text.lines().count(), 2);

        record.step = 3;
        log.step(&record, Duration::from_secs(3)).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
        log.cut_after(1).unwrap();
        record.step = 2;
        log.step(&record, Duration::from_secs(4)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some(first));
        let steps: Vec<_> = text.lines().map(step_of).collect();
        assert_eq!(steps, [Some(1), Some(2)], "{text}");
    }
}
