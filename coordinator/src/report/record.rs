//! What a run directory says of its run, whether it is done, stopped or under way. Nothing is
//! computed from it here, and nothing is written.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use proto::EvalStage;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use settings::{Layers, Settings, SettingsError};

use crate::eval_plan::EvalResult;
use crate::journal::{ReplayError, ScanError, scan, surviving};
use crate::run_dir::{RunDir, RunDirError};
use crate::run_lines::{EvalLine, LinesError, StepLine, lines};
use crate::summary::Summary;

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error(transparent)]
    Dir(#[from] RunDirError),
    #[error("{path} is damaged: {cause}")]
    Settings { path: PathBuf, cause: SettingsError },
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Lines(#[from] LinesError),
    #[error(
        "{path} is damaged: {cause}; without it a report shows the run as one that was stopped"
    )]
    File { path: PathBuf, cause: serde_json::Error },
    #[error("the journal {path} {cause}")]
    Scan { path: PathBuf, cause: ScanError },
    #[error("{path}: {cause}")]
    Replay { path: PathBuf, cause: ReplayError },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    Done,
    UnderWay,
    Stopped,
}

/// A line of `rollouts/`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RolloutLine {
    pub(super) prompt: String,
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
    pub(super) authors: Vec<String>,
    pub(super) extracted: Option<String>,
    pub(super) gold: String,
    pub(super) correct: bool,
    pub(super) reward: f64,
}

/// Some rollouts of one step.
#[derive(Clone, Debug)]
pub(super) struct Sampled {
    pub(super) step: u32,
    pub(super) rollouts: Vec<RolloutLine>,
}

/// An evaluation on held-out problems.
#[derive(Clone, Debug)]
pub(super) struct Evaluated {
    pub(super) step: u32,
    pub(super) result: EvalResult,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) dir: RunDir,
    pub(super) settings: Settings,
    pub(super) state: RunState,
    pub(super) steps: Vec<StepLine>,
    pub(super) before: Option<Evaluated>,
    pub(super) during: Vec<Evaluated>,
    pub(super) after: Option<Evaluated>,
    pub(super) summary: Option<Summary>,
    /// Of the first step and of the last one that have any.
    pub(super) samples: Vec<Sampled>,
}

impl Record {
    pub(super) fn read(path: &Path, name: String) -> Result<Self, RecordError> {
        let dir = RunDir::open(path)?;
        let settings = settings(&dir.config())?;
        let live = RunDir::is_live(path)?;
        let summary: Option<Summary> = json(&dir.summary())?;
        let steps: Vec<StepLine> = lines(&dir.metrics())?;
        let during: Vec<EvalLine> = lines(&dir.evaluations())?;
        let committed = steps.last().map_or(0, |last| last.step);
        let (before, after) = match &summary {
            Some(summary) => (summary.before.clone(), summary.after.clone()),
            None => of_journal(&dir.journal())?,
        };
        let state = match (&summary, live) {
            (Some(_), _) => RunState::Done,
            (None, true) => RunState::UnderWay,
            (None, false) => RunState::Stopped,
        };
        let samples = samples(&dir.path().join("rollouts"), committed)?;
        Ok(Self {
            name,
            settings,
            state,
            before: before.map(|result| Evaluated { step: 0, result }),
            during: during.into_iter().map(Into::into).collect(),
            after: after.map(|result| Evaluated { step: committed, result }),
            dir,
            steps,
            summary,
            samples,
        })
    }

    /// Steps committed.
    pub(super) fn committed(&self) -> u32 {
        self.steps.last().map_or(0, |last| last.step)
    }

    /// All evaluations, in the order of their steps.
    pub(super) fn evaluations(&self) -> impl Iterator<Item = &Evaluated> {
        self.before.iter().chain(&self.during).chain(&self.after)
    }

    /// The last one that is not the one before training.
    pub(super) fn latest(&self) -> Option<&Evaluated> {
        self.after.as_ref().or(self.during.last())
    }
}

impl From<EvalLine> for Evaluated {
    fn from(EvalLine { step, result, .. }: EvalLine) -> Self {
        Self { step, result }
    }
}

fn settings(path: &Path) -> Result<Settings, RecordError> {
    let file = Some(path.to_string_lossy().into_owned());
    let layers = Layers { file, set: Vec::new(), environment: Some(Vec::new()) };
    layers.load().map_err(|cause| RecordError::Settings { path: path.to_owned(), cause })
}

/// The file's text; none where there is no such file.
fn text(path: &Path) -> Result<Option<String>, RecordError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => {
            other.map(Some).map_err(|cause| RecordError::Read { path: path.to_owned(), cause })
        }
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    let Some(text) = text(path)? else { return Ok(None) };
    let fault = |cause| RecordError::File { path: path.to_owned(), cause };
    serde_json::from_str(&text).map(Some).map_err(fault)
}

/// The evaluations before and after training of a run without a summary. Unlike a run that is gone
/// on with, this cuts nothing off the journal.
fn of_journal(path: &Path) -> Result<(Option<EvalResult>, Option<EvalResult>), RecordError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((None, None)),
        other => other.map_err(|cause| RecordError::Read { path: path.to_owned(), cause })?,
    };
    let found = scan(&bytes).map_err(|cause| RecordError::Scan { path: path.to_owned(), cause })?;
    let found = surviving(found.entries)
        .map_err(|cause| RecordError::Replay { path: path.to_owned(), cause })?;
    let of = |wanted: EvalStage| -> Result<Option<EvalResult>, RecordError> {
        let mut all = found.evaluations.iter();
        let Some((_, text)) = all.find(|((_, stage), _)| *stage == wanted) else { return Ok(None) };
        let fault = |cause| RecordError::File { path: path.to_owned(), cause };
        serde_json::from_str(text).map(Some).map_err(fault)
    };
    Ok((of(EvalStage::Before)?, of(EvalStage::After)?))
}

/// Of the first step that left rollouts and of the last one; steps that were undone do not count.
fn samples(dir: &Path, committed: u32) -> Result<Vec<Sampled>, RecordError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|cause| RecordError::Read { path: dir.to_owned(), cause })?,
    };
    let step = |entry: fs::DirEntry| -> Option<u32> {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("step-")?.strip_suffix(".jsonl")?.parse().ok()
    };
    let steps = entries.filter_map(|entry| step(entry.ok()?)).filter(|step| *step <= committed);
    let mut steps: Vec<u32> = steps.collect();
    steps.sort_unstable();
    let (first, last) = (steps.first().copied(), steps.last().copied());
    let last = last.filter(|last| Some(*last) != first);
    let read = |step: u32| {
        let rollouts = lines(&dir.join(format!("step-{step:06}.jsonl")))?;
        Ok(Sampled { step, rollouts })
    };
    first.into_iter().chain(last).map(read).collect()
}
