//! One file into the cache: whole, checked, and gone on with where an earlier try broke off.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use runtime::RetryPolicy;

use super::cache::Cached;
use super::client::{Client, Described, Repository};
use super::digest::Kind;
use super::error::FetchError;
use super::progress::Progress;

/// The end of the name of what is not whole yet, as Hugging Face's own tools have it.
const INCOMPLETE: &str = "incomplete";
const PIECE_BYTES: usize = 256 << 10;

/// One commit of a repository on its way into the cache.
pub(super) struct Downloads<'a> {
    pub(super) client: &'a Client,
    pub(super) repository: &'a Repository,
    pub(super) commit: &'a str,
    pub(super) policy: RetryPolicy,
}

impl Downloads<'_> {
    /// The file's path in the cache, after fetching what is missing of it.
    ///
    /// # Errors
    /// What does not pass within the policy's attempts; each that brings bytes counts anew.
    pub(super) fn file(&self, file: &str) -> Result<PathBuf, FetchError> {
        let cached = Cached::new(&self.client.place().cache, self.repository);
        let described =
            attempts(self.policy, |_| self.client.describe(self.repository, self.commit, file))?;
        let blob = cached.blob(&described.etag)?;
        let there = fs::metadata(&blob).is_ok_and(|found| found.len() == described.bytes);
        if there {
            Progress::unchanged(file, described.bytes);
        } else {
            self.fetch(file, &described, &blob)?;
        }
        cached.link(self.commit, file, &described.etag)
    }

    fn fetch(&self, file: &str, described: &Described, blob: &Path) -> Result<(), FetchError> {
        let fault = |cause| FetchError::File { path: blob.to_owned(), cause };
        fs::create_dir_all(blob.parent().unwrap_or(blob)).map_err(fault)?;
        let partial = blob.with_extension(INCOMPLETE);
        let mut out = OpenOptions::new();
        let out = out.read(true).append(true).create(true).open(&partial).map_err(fault)?;
        match out.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FetchError::Busy(partial)),
            Err(TryLockError::Error(source)) => return Err(fault(source)),
        }
        let held = out.metadata().map_err(fault)?.len();
        let mut progress = Progress::start(file, held.min(described.bytes), described.bytes);
        attempts(self.policy, |grown| {
            let before = length(&out, &partial)?;
            let done = self.attempt(file, described, (&out, &partial), &mut progress);
            *grown = length(&out, &partial)? > before;
            done
        })?;
        progress.finish();
        fs::rename(&partial, blob).map_err(fault)
    }

    fn attempt(
        &self,
        file: &str,
        described: &Described,
        (mut out, partial): (&File, &Path),
        progress: &mut Progress,
    ) -> Result<(), FetchError> {
        let fault = |cause| FetchError::File { path: partial.to_owned(), cause };
        let expected = described.bytes;
        let mut held = length(out, partial)?;
        if held > expected {
            out.set_len(0).map_err(fault)?;
            held = 0;
        }
        if held < expected {
            let (start, mut body) = self.client.open(&described.url, held)?;
            out.set_len(start).map_err(fault)?;
            progress.at(start);
            let mut piece = vec![0; PIECE_BYTES];
            let reason = loop {
                match body.read(&mut piece) {
                    Ok(0) => break "the connection ended".to_owned(),
                    Ok(read) => out.write_all(&piece[..read]).map_err(fault)?,
                    Err(error) => break error.to_string(),
                }
                progress.at(length(out, partial)?);
            };
            let found = length(out, partial)?;
            if found < expected {
                let file = file.to_owned();
                return Err(FetchError::Cut { file, found, expected, reason });
            }
        }
        check(file, described, partial).inspect_err(|_| {
            // A damaged file must not be gone on with.
            let _ = out.set_len(0);
        })
    }
}

fn length(file: &File, path: &Path) -> Result<u64, FetchError> {
    let found = file.metadata().map(|found| found.len());
    found.map_err(|cause| FetchError::File { path: path.to_owned(), cause })
}

/// Size, and the hash that the etag is.
fn check(file: &str, described: &Described, path: &Path) -> Result<(), FetchError> {
    let fault = |cause| FetchError::File { path: path.to_owned(), cause };
    let damaged = |kind, found: String, expected: String| {
        Err(FetchError::Damaged { file: file.to_owned(), kind, found, expected })
    };
    let bytes = fs::metadata(path).map_err(fault)?.len();
    if bytes != described.bytes {
        return damaged("size", bytes.to_string(), described.bytes.to_string());
    }
    let Some(kind) = Kind::of(&described.etag) else { return Ok(()) };
    let found = kind.digest(path).map_err(fault)?;
    if found != described.etag {
        return damaged(kind.name(), found, described.etag.clone());
    }
    Ok(())
}

/// Tries until it succeeds, the fault is one that stays, or the policy is used up; whether a try
/// got on, which starts the count anew, it says itself.
pub(super) fn attempts<T>(
    policy: RetryPolicy,
    mut op: impl FnMut(&mut bool) -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let mut failed = 0;
    loop {
        let mut got_on = false;
        let error = match op(&mut got_on) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        failed = if got_on { 1 } else { failed + 1 };
        let delay = policy.delay_after(failed).filter(|_| error.is_passing());
        let Some(delay) = delay else { return Err(error) };
        eprintln!("{error}; trying again in {:.1} s", delay.as_secs_f64());
        std::thread::sleep(delay);
    }
}
