//! `summary.json`: what a finished run found. It is written whole or not at all.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use types::Purpose;

use crate::eval_plan::EvalResult;
use crate::state::RunState;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub steps: u32,
    pub seed: u64,
    pub before: Option<EvalResult>,
    pub after: Option<EvalResult>,
    pub wall_seconds: f64,
    /// Over all processes.
    pub cpu_seconds: f64,
    pub tokens: TokenSummary,
    pub groups: GroupSummary,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSummary {
    pub strong: u64,
    pub weak: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    pub leased: u64,
    /// Trained and zero-variance ones.
    pub consumed: u64,
    pub trained: u64,
    pub zero_variance: u64,
    pub dropped_stale: u64,
    pub duplicate_copies_refused: u64,
    pub trained_twice: u64,
}

/// What the run cost, measured when it ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
}

impl Summary {
    #[must_use]
    pub fn of(state: &RunState, seed: u64, cost: Cost) -> Self {
        let totals = state.totals();
        let groups = GroupSummary {
            leased: state.counts(Purpose::Train).leased,
            consumed: totals.consumed,
            trained: totals.trained,
            zero_variance: totals.zero_variance,
            dropped_stale: totals.stale,
            duplicate_copies_refused: totals.duplicates_refused,
            trained_twice: totals.trained_twice,
        };
        Self {
            steps: state.committed(),
            seed,
            before: state.before().cloned(),
            after: state.after().cloned(),
            wall_seconds: cost.wall_seconds,
            cpu_seconds: cost.cpu_seconds,
            tokens: TokenSummary { strong: totals.strong_tokens, weak: totals.weak_tokens },
            groups,
        }
    }

    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_json(path, self)
    }
}

/// Writes beside the file and renames, so that no reader meets half of it.
///
/// # Errors
/// A file that cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    let partial = path.with_extension("json.partial");
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_exactly_the_agreed_form() {
        let mut before = EvalResult {
            problems: 4,
            solo_accuracy: Some(1.0),
            solo_accuracy_greedy: Some(0.75),
            jargon_rate: Some(0.8),
            plain_solo_accuracy: Some(0.5),
            ..EvalResult::default()
        };
        for schedule in ["token:0.25", "line:0.5"] {
            before.tandem_accuracy.push(schedule, Some(0.25));
            before.handoff_success_rate.push(schedule, None);
        }
        let summary = Summary {
            steps: 80,
            seed: 3,
            before: Some(before),
            after: None,
            wall_seconds: 61.5,
            cpu_seconds: 118.25,
            tokens: TokenSummary { strong: 9, weak: 3 },
            groups: GroupSummary { leased: 641, consumed: 640, ..GroupSummary::default() },
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        summary.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), GOLDEN);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    const GOLDEN: &str = r#"{
  "steps": 80,
  "seed": 3,
  "before": {
    "problems": 4,
    "solo_accuracy": 1.0,
    "solo_accuracy_greedy": 0.75,
    "tandem_accuracy": {
      "token:0.25": 0.25,
      "line:0.5": 0.25
    },
    "handoff_success_rate": {
      "token:0.25": null,
      "line:0.5": null
    },
    "jargon_rate": 0.8,
    "weak_solo_accuracy": null
  },
  "after": null,
  "wall_seconds": 61.5,
  "cpu_seconds": 118.25,
  "tokens": {
    "strong": 9,
    "weak": 3
  },
  "groups": {
    "leased": 641,
    "consumed": 640,
    "trained": 0,
    "zero_variance": 0,
    "dropped_stale": 0,
    "duplicate_copies_refused": 0,
    "trained_twice": 0
  }
}
"#;
}
