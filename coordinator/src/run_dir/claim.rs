//! Which directory a new run may take. Whoever takes one holds a lock in it for as long as the
//! process lives; the kernel lets go of it, whatever ends the process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use super::{CONFIG, JOURNAL, LAUNCHED, PROCESSES, RunDir, RunDirError, TRACK};

/// Its presence says that the directory was made by a run; its lock, that the run is under way.
const LOCK: &str = "run.lock";

/// Runs of one name before the search for a free one gives up.
const RUNS_MAX: u32 = 100_000;

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

    /// The directory of a run that ended in whatever way, to go on with it.
    ///
    /// # Errors
    /// No run there, or one that is under way.
    pub fn take_over(path: &Path) -> Result<Self, RunDirError> {
        if !path.join(CONFIG).is_file() {
            return Err(RunDirError::NoRun(path.to_owned()));
        }
        let lock = lock(path)?;
        Self::at(path, Some(lock))
    }

    /// Whether a directory, which may not exist, holds a run that others may have taken part in.
    #[must_use]
    pub fn has_run(path: &Path) -> bool {
        [CONFIG, JOURNAL].iter().all(|name| path.join(name).is_file())
    }

    /// Whether a run is under way in a directory, which may not exist.
    ///
    /// # Errors
    /// A lock that cannot be looked at.
    pub fn is_live(path: &Path) -> Result<bool, RunDirError> {
        if !path.join(LOCK).is_file() {
            return Ok(false);
        }
        match lock(path) {
            Ok(_) => Ok(false),
            Err(RunDirError::Live(_)) => Ok(true),
            Err(other) => Err(other),
        }
    }

    /// Only what is empty, or what a run left behind that ended before it began.
    fn claim(path: &Path) -> Result<Self, RunDirError> {
        let fault = |cause| RunDirError::Create { path: path.to_owned(), cause };
        fs::create_dir_all(path).map_err(fault)?;
        let ours = path.join(LOCK).is_file();
        let refusal = || match path.join(CONFIG).is_file() {
            true => RunDirError::Run(path.to_owned()),
            false => RunDirError::NotEmpty(path.to_owned()),
        };
        if !ours && !never_began(path, ours).map_err(fault)? {
            return Err(refusal());
        }
        let lock = lock(path)?;
        // Another run may have come and gone before the lock was ours.
        if !never_began(path, ours).map_err(fault)? {
            return Err(refusal());
        }
        Self::at(path, Some(lock))
    }

    pub(super) fn first_free(stem: &Path) -> Result<Self, RunDirError> {
        let fault = |cause| RunDirError::Create { path: stem.to_owned(), cause };
        let (parent, name) = (stem.parent().unwrap_or(Path::new("")), stem.file_name());
        let name = name.unwrap_or_default().to_string_lossy();
        fs::create_dir_all(parent).map_err(fault)?;
        for number in 1..=RUNS_MAX {
            let path = parent.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Self::claim(&path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fault(error)),
            }
        }
        Err(RunDirError::Full(stem.to_owned()))
    }
}

/// # Errors
/// Another process holds the lock, or it cannot be made.
fn lock(path: &Path) -> Result<File, RunDirError> {
    let fault = |cause| RunDirError::Create { path: path.to_owned(), cause };
    let file = OpenOptions::new().create(true).append(true).open(path.join(LOCK)).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunDirError::Live(path.to_owned())),
        // Some network file systems have no locks; the file alone still marks whose directory it is.
        Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Unsupported => {
            let shown = path.display();
            eprintln!("{shown} is on a file system without locks: start no second run in it");
            Ok(file)
        }
        Err(TryLockError::Error(source)) => Err(fault(source)),
    }
}

/// A run that failed before its first step left settings and logs, and nothing to lose. What lies
/// in a directory that no run made is somebody else's, whatever it is called.
fn never_began(path: &Path, ours: bool) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let harmless = match entry.file_name().to_str() {
            Some(LOCK) => true,
            // Weights in there were on their way from one process to another.
            Some(CONFIG | PROCESSES | JOURNAL | LAUNCHED | TRACK) => ours,
            Some("logs" | "weights" | "tensorboard") => ours,
            Some("metrics.jsonl") => ours && entry.metadata()?.len() == 0,
            // Where others start the processes, a learner may have been here first.
            Some("checkpoints" | "rollouts") => {
                entry.file_type()?.is_dir() && fs::read_dir(entry.path())?.next().is_none()
            }
            _ => false,
        };
        if !harmless {
            return Ok(false);
        }
    }
    Ok(true)
}
