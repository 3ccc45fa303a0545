//! A run's directory: where everything lies, and the refusal to mix two runs. Rollouts and
//! checkpoints are written into it by the learner.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const CONFIG: &str = "config.toml";
const WEIGHTS: &str = "model.safetensors";
/// With it a checkpoint is whole; the learner's word.
const STATE: &str = "state.json";
const STEP_PREFIX: &str = "step-";
/// Runs of one name before the search for a free one gives up.
const RUNS_MAX: u32 = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    #[error(
        "{0} holds a run already: choose another --run-dir, or see it with `coordinator eval {0}`"
    )]
    Run(PathBuf),
    #[error("{0} is not empty: choose another --run-dir, a new or an empty directory")]
    NotEmpty(PathBuf),
    #[error("cannot create the run directory {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("no free run directory like {0}: clear runs/ or give --run-dir")]
    Full(PathBuf),
    #[error("{0} is no run directory, it has no config.toml: name what `coordinator launch` made")]
    NoRun(PathBuf),
    #[error("{0} has no checkpoint yet: nothing to evaluate")]
    NoCheckpoint(PathBuf),
    #[error("{path} has no checkpoint of step {step}; there are {there}")]
    NoStep { path: PathBuf, step: u32, there: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointChoice {
    Latest,
    Step(u32),
}

impl FromStr for CheckpointChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            number => number
                .strip_prefix(STEP_PREFIX)
                .unwrap_or(number)
                .parse()
                .map(Self::Step)
                .map_err(|_| format!("'{text}' is neither `latest` nor a step's number")),
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
}

/// An existing run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    /// Absolute.
    path: PathBuf,
    /// As the user would write it.
    shown: PathBuf,
}

impl RunDir {
    /// A fresh directory: the one asked for, or the first free `runs/NAME-N`.
    ///
    /// # Errors
    /// A directory that holds something, or that cannot be made.
    pub fn create(requested: Option<&Path>, name: &str) -> Result<Self, RunDirError> {
        match requested {
            Some(path) => Self::claim(path),
            None => Self::first_free(&Path::new("runs").join(name)),
        }
    }

    /// # Errors
    /// A directory without a run's settings.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        if !path.join(CONFIG).is_file() {
            return Err(RunDirError::NoRun(path.to_owned()));
        }
        Self::at(path)
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

    /// Results of interleaved evaluations.
    #[must_use]
    pub fn evaluations(&self) -> PathBuf {
        self.path.join("evaluations.jsonl")
    }

    #[must_use]
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// The result of `coordinator eval`.
    #[must_use]
    pub fn evaluation(&self, step: u32) -> PathBuf {
        self.path.join(format!("eval-step-{step:06}.json"))
    }

    /// Where the processes of the running command answer.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.path.join("processes.json")
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
            other => other.map_err(|source| RunDirError::Read { path, source })?,
        };
        let step = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let step = name.strip_prefix(STEP_PREFIX)?.parse().ok()?;
            let found = CheckpointDir { step, path: entry.path() };
            found.path.join(STATE).is_file().then_some(found)
        };
        let mut found: Vec<_> = entries.filter_map(|entry| step(entry.ok()?)).collect();
        found.sort_by_key(|checkpoint| checkpoint.step);
        Ok(found)
    }

    /// # Errors
    /// No such checkpoint; the text names those that are there.
    pub fn checkpoint(&self, choice: CheckpointChoice) -> Result<CheckpointDir, RunDirError> {
        let mut all = self.checkpoints()?;
        let CheckpointChoice::Step(step) = choice else {
            return all.pop().ok_or_else(|| RunDirError::NoCheckpoint(self.shown.clone()));
        };
        if all.is_empty() {
            return Err(RunDirError::NoCheckpoint(self.shown.clone()));
        }
        let there: Vec<String> = all.iter().map(|c| c.step.to_string()).collect();
        all.into_iter().find(|c| c.step == step).ok_or_else(|| RunDirError::NoStep {
            path: self.shown.clone(),
            step,
            there: there.join(", "),
        })
    }

    fn claim(path: &Path) -> Result<Self, RunDirError> {
        let fault = |source| RunDirError::Create { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(fault)?;
        let of_run = path.join(CONFIG).is_file();
        let empty = fs::read_dir(path).map_err(fault)?.next().is_none();
        let fresh = empty || (of_run && never_began(path).map_err(fault)?);
        if !fresh {
            let refusal = if of_run { RunDirError::Run } else { RunDirError::NotEmpty };
            return Err(refusal(path.to_owned()));
        }
        Self::at(path)
    }

    fn first_free(stem: &Path) -> Result<Self, RunDirError> {
        let fault = |source| RunDirError::Create { path: stem.to_owned(), source };
        let (parent, name) = (stem.parent().unwrap_or(Path::new("")), stem.file_name());
        let name = name.unwrap_or_default().to_string_lossy();
        fs::create_dir_all(parent).map_err(fault)?;
        for number in 1..=RUNS_MAX {
            let path = parent.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Self::at(&path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fault(error)),
            }
        }
        Err(RunDirError::Full(stem.to_owned()))
    }

    fn at(path: &Path) -> Result<Self, RunDirError> {
        let fault = |source| RunDirError::Read { path: path.to_owned(), source };
        let absolute = std::path::absolute(path).map_err(fault)?;
        Ok(Self { path: absolute, shown: path.to_owned() })
    }
}

/// A run that failed before its first step left settings and logs, and nothing to lose.
fn never_began(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let harmless = match entry.file_name().to_str() {
            Some(CONFIG | "processes.json" | "logs") => true,
            Some("metrics.jsonl") => entry.metadata()?.len() == 0,
            Some("checkpoints" | "rollouts") => fs::read_dir(entry.path())?.next().is_none(),
            _ => false,
        };
        if !harmless {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fresh_directory_becomes_a_run() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/run");
        let run = RunDir::create(Some(&path), "x").unwrap();
        assert!(RunDir::create(Some(&path), "x").is_ok(), "still empty");
        assert!(RunDir::open(&path).unwrap_err().to_string().contains("no config.toml"));
        fs::write(run.config(), "").unwrap();
        fs::write(run.metrics(), "").unwrap();
        fs::create_dir(path.join("checkpoints")).unwrap();
        assert!(RunDir::create(Some(&path), "x").is_ok(), "a run that never began");
        fs::write(run.metrics(), "{}\n").unwrap();
        let text = RunDir::create(Some(&path), "x").unwrap_err().to_string();
        assert!(text.contains("holds a run already") && text.contains("--run-dir"), "{text}");
        assert_eq!(RunDir::open(&path).unwrap(), run);

        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("thesis.tex"), "").unwrap();
        let text = RunDir::create(Some(&other), "x").unwrap_err().to_string();
        assert!(text.contains("is not empty") && text.contains("--run-dir"), "{text}");
    }

    #[test]
    fn names_count_up() {
        let root = tempfile::tempdir().unwrap();
        let stem = root.path().join("runs/miniature");
        let first = RunDir::first_free(&stem).unwrap();
        let second = RunDir::first_free(&stem).unwrap();
        assert!(first.path().ends_with("runs/miniature-1"));
        assert!(second.path().ends_with("runs/miniature-2"));
    }

    #[test]
    fn checkpoints_are_found_by_step_and_torn_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(Some(root.path()), "x").unwrap();
        let none = run.checkpoint(CheckpointChoice::Latest).unwrap_err().to_string();
        assert!(none.contains("no checkpoint yet"), "{none}");
        for name in ["step-000020", "step-000100", "step-000040", ".unfinished-step-000120"] {
            let dir = root.path().join("checkpoints").join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(STATE), "").unwrap();
        }
        fs::create_dir(root.path().join("checkpoints/step-000140")).unwrap();
        fs::write(root.path().join("checkpoints/step-000140").join(WEIGHTS), "").unwrap();
        assert_eq!(run.checkpoint(CheckpointChoice::Latest).unwrap().step, 100);
        assert_eq!(run.checkpoint("40".parse().unwrap()).unwrap().step, 40);
        assert_eq!(run.checkpoint("step-000020".parse().unwrap()).unwrap().step, 20);
        let text = run.checkpoint(CheckpointChoice::Step(7)).unwrap_err().to_string();
        assert!(text.contains("step 7; there are 20, 40, 100"), "{text}");
        assert!("best".parse::<CheckpointChoice>().is_err());
    }
}
