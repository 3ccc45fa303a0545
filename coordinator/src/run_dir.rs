//! A run's directory: where everything lies, and the refusal to mix two runs. Rollouts and
//! checkpoints are written into it by the learner.

mod claim;
mod evaluated;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

const CONFIG: &str = "config.toml";
const PROCESSES: &str = "processes.json";
const JOURNAL: &str = "journal";
const LAUNCHED: &str = "launched.json";
const TRACK: &str = "track.json";
const WEIGHTS: &str = "model.safetensors";
/// With it a checkpoint is whole; the learner's word.
const STATE: &str = "state.json";
const STEP_PREFIX: &str = "step-";

#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    #[error(
        "{0} holds a run already: choose another --run-dir, or see it with `coordinator eval {0}`"
    )]
    Run(PathBuf),
    #[error("a run is under way in {0}: wait for its end, or choose another --run-dir")]
    Live(PathBuf),
    #[error("{0} is not empty: choose another --run-dir, a new or an empty directory")]
    NotEmpty(PathBuf),
    #[error("cannot create the run directory {path}: {cause}")]
    Create { path: PathBuf, cause: io::Error },
    #[error("no free run directory like {0}: clear runs/ or give --run-dir")]
    Full(PathBuf),
    #[error("{0} is no run directory, it has no config.toml: name what `coordinator launch` made")]
    NoRun(PathBuf),
    #[error("{0} has no checkpoint yet: nothing to evaluate")]
    NoCheckpoint(PathBuf),
    #[error("{path} has no checkpoint of step {step}; there are {there}")]
    NoStep { path: PathBuf, step: u32, there: String },
    #[error(
        "{0} has no evaluated checkpoint: evaluate some with `coordinator eval {0} --checkpoint N`, \
         or train with eval.every_steps a multiple of checkpoint.every_steps"
    )]
    NotEvaluated(PathBuf),
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error("cannot write {path}: {cause}")]
    Write { path: PathBuf, cause: io::Error },
}

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointChoice {
    Latest,
    /// By evaluations on held-out problems.
    Best,
    Step(u32),
}

impl FromStr for CheckpointChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            "best" => Ok(Self::Best),
            number => {
                number.strip_prefix(STEP_PREFIX).unwrap_or(number).parse().map(Self::Step).map_err(
                    |_| format!("'{text}' is neither `latest` nor `best` nor a step's number"),
                )
            }
        }
    }
}

/// One checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointDir {
    pub step: u32,
    /// Absolute.
    pub path: PathBuf,
}

impl CheckpointDir {
    #[must_use]
    pub fn weights(&self) -> PathBuf {
        self.path.join(WEIGHTS)
    }

    /// The run's directory.
    #[must_use]
    pub fn run(&self) -> Option<&Path> {
        self.path.parent()?.parent()
    }

    /// The whole checkpoint that is this directory; `None` if it is none.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let step = path.file_name()?.to_str()?.strip_prefix(STEP_PREFIX)?.parse().ok()?;
        path.join(STATE).is_file().then_some(Self { step, path })
    }
}

/// An existing run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    /// Absolute.
    path: PathBuf,
    /// As the user would write it.
    shown: PathBuf,
    /// Held by the command that made the directory, until it ends in whatever way.
    _lock: Option<Arc<File>>,
}

impl RunDir {
    /// # Errors
    /// A directory without a run's settings.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        if !path.join(CONFIG).is_file() {
            return Err(RunDirError::NoRun(path.to_owned()));
        }
        Self::at(path, None)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For messages.
    #[must_use]
    pub fn shown(&self) -> std::path::Display<'_> {
        self.shown.display()
    }

    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// What the run must not forget.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// How many processes it was started with.
    #[must_use]
    pub fn launched(&self) -> PathBuf {
        self.path.join(LAUNCHED)
    }

    /// Results of interleaved evaluations.
    #[must_use]
    pub fn evaluations(&self) -> PathBuf {
        self.path.join("evaluations.jsonl")
    }

    #[must_use]
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// The result of `coordinator eval`, on held-out problems or on the test set.
    #[must_use]
    pub fn evaluation(&self, step: u32, test_set: bool) -> PathBuf {
        let of = if test_set { "test-" } else { "" };
        self.path.join(format!("eval-{of}step-{step:06}.json"))
    }

    /// The result of `coordinator eval --probe`.
    #[must_use]
    pub fn probe(&self, step: u32) -> PathBuf {
        self.path.join(format!("probe-step-{step:06}.json"))
    }

    /// What trackers have to remember.
    #[must_use]
    pub fn track(&self) -> PathBuf {
        self.path.join(TRACK)
    }

    /// Where the processes of a command answer; each kind of command has a file of its own, as it
    /// has logs, since an evaluation may look at a run under way.
    #[must_use]
    pub fn processes(&self, log_prefix: &str) -> PathBuf {
        self.path.join(format!("{log_prefix}{PROCESSES}"))
    }

    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.path.join("logs").join(format!("{process}.log"))
    }

    /// Whole checkpoints, ascending.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointDir>, RunDirError> {
        let path = self.path.join("checkpoints");
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|cause| RunDirError::Read { path, cause })?,
        };
        let at = |entry: fs::DirEntry| CheckpointDir::at(&entry.path());
        let mut found: Vec<_> = entries.filter_map(|entry| at(entry.ok()?)).collect();
        found.sort_by_key(|checkpoint| checkpoint.step);
        Ok(found)
    }

    /// # Errors
    /// No such checkpoint; the text names those that are there.
    pub fn checkpoint(&self, choice: CheckpointChoice) -> Result<CheckpointDir, RunDirError> {
        self.choose(choice, &BTreeSet::new()).map(|step| self.checkpoint_dir(step))
    }

    /// The step of a checkpoint that is here or among those that are `elsewhere`.
    ///
    /// # Errors
    /// No such checkpoint; the text names those that are there.
    pub fn choose(
        &self,
        choice: CheckpointChoice,
        elsewhere: &BTreeSet<u32>,
    ) -> Result<u32, RunDirError> {
        let mut all = elsewhere.clone();
        all.extend(self.checkpoints()?.iter().map(|here| here.step));
        let Some(last) = all.last() else {
            return Err(RunDirError::NoCheckpoint(self.shown.clone()));
        };
        let step = match choice {
            CheckpointChoice::Best => return self.best(&all),
            CheckpointChoice::Latest => *last,
            CheckpointChoice::Step(step) => step,
        };
        if all.contains(&step) {
            return Ok(step);
        }
        let there: Vec<String> = all.iter().map(u32::to_string).collect();
        let (path, there) = (self.shown.clone(), there.join(", "));
        Err(RunDirError::NoStep { path, step, there })
    }

    /// Where the checkpoint of a step lies, if there is one.
    #[must_use]
    pub fn checkpoint_dir(&self, step: u32) -> CheckpointDir {
        let name = format!("{STEP_PREFIX}{step:06}");
        CheckpointDir { step, path: self.path.join("checkpoints").join(name) }
    }

    fn at(path: &Path, lock: Option<File>) -> Result<Self, RunDirError> {
        let fault = |cause| RunDirError::Read { path: path.to_owned(), cause };
        let absolute = std::path::absolute(path).map_err(fault)?;
        Ok(Self { path: absolute, shown: path.to_owned(), _lock: lock.map(Arc::new) })
    }
}
