//! The journal's file: made and replaced whole, read back with its torn end cut off, written frame
//! by frame. Blocking; who may write when is `writer`'s.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fail::fail_point;
use proto::JournalEntry;

use super::frame::{self, Batch, ENTRY_BYTES_MAX};
use super::{FILE_BYTES_MAX, JournalError, Torn, scan};

/// Beside the file while it is made or replaced.
const FRESH: &str = ".new";

/// An open file. The run's lock keeps other processes away.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    /// The end of the last frame that is on disk; the seal stands behind it.
    end: u64,
    /// The number of the next entry.
    next: u64,
}

/// What an earlier process left.
#[derive(Debug, Default, PartialEq)]
pub struct Recovered {
    pub entries: Vec<JournalEntry>,
    /// Never acknowledged, and gone now.
    pub cut: Option<Torn>,
}

impl JournalFile {
    /// Opens the file, or makes it. All that is recovered is on disk.
    ///
    /// # Errors
    /// A file that cannot be used, is no journal or is damaged in what was acknowledged.
    pub fn open(path: &Path) -> Result<(Self, Recovered), JournalError> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => Self::recover(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((Self::create(path, &[])?, Recovered::default()))
            }
            Err(error) => Err(read_fault(path, error)),
        }
    }

    /// Puts a fresh file with these entries in the place of this one.
    ///
    /// # Errors
    /// A file that cannot be written; the old one stays.
    pub fn rewrite(self, entries: &[JournalEntry]) -> Result<Self, JournalError> {
        Self::create(&self.path, entries)
    }

    /// The number of the last entry that is on disk.
    pub(super) fn durable(&self) -> u64 {
        self.next - 1
    }

    /// Writes one frame; it is on disk on return.
    ///
    /// # Errors
    /// A write that fails; `cut_back` then removes what there is of it.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<(), JournalError> {
        let frame = batch.frame(self.next);
        let end = self.end + frame.len() as u64;
        if end + frame::HEAD_BYTES as u64 > FILE_BYTES_MAX {
            return Err(JournalError::Outgrown(self.path.clone()));
        }
        self.write_synced(&frame).map_err(|error| write_fault(&self.path, error))?;
        self.end = end;
        self.next += batch.entries();
        Ok(())
    }

    /// Says that the last frame is on disk. It need not be on disk itself: without it a file is
    /// sound too, only its last frame cannot be told from a torn one if it is damaged later.
    ///
    /// # Errors
    /// A write that fails.
    pub(super) fn seal(&self) -> Result<(), JournalError> {
        let written = self.file.write_all_at(&frame::seal(self.next), self.end);
        written.map_err(|error| write_fault(&self.path, error))?;
        fail_point!("journal::sealed");
        Ok(())
    }

    /// After a failed write: back to what is on disk, as far as the disk still lets us.
    pub(super) fn cut_back(&self) -> Result<(), JournalError> {
        let cut = self.file.set_len(self.end).and_then(|()| self.file.sync_all());
        cut.map_err(|error| write_fault(&self.path, error))?;
        self.seal()
    }

    fn write_synced(&self, frame: &[u8]) -> io::Result<()> {
        fail_point!("journal::write");
        self.file.write_all_at(frame, self.end)?;
        fail_point!("journal::written", |_| Err(io::Error::other("injected")));
        self.file.sync_data()?;
        fail_point!("journal::synced");
        Ok(())
    }

    fn recover(path: &Path, file: File) -> Result<(Self, Recovered), JournalError> {
        let mut bytes = Vec::new();
        let read = (&file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| read_fault(path, error))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(JournalError::Outgrown(path.to_owned()));
        }
        let found = scan(&bytes);
        let found =
            found.map_err(|fault| JournalError::Content { path: path.to_owned(), fault })?;
        let next = found.entries.len() as u64 + 1;
        let journal = Self { path: path.to_owned(), file, end: found.valid_bytes, next };
        if found.torn.is_some() || !found.sealed {
            // An earlier process may have ended between its write and its sync: what is recovered
            // from here on counts as acknowledged.
            journal.cut_back()?;
        }
        fail_point!("journal::recovered");
        Ok((journal, Recovered { entries: found.entries, cut: found.torn }))
    }

    fn create(path: &Path, entries: &[JournalEntry]) -> Result<Self, JournalError> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(FRESH);
        let fresh = PathBuf::from(fresh);
        let (bytes, end) = file_bytes(entries)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(JournalError::Outgrown(path.to_owned()));
        }
        let file = put(&fresh, path, &bytes).map_err(|error| {
            // What is left over is overwritten by the next one, if it cannot be removed now.
            let _ = fs::remove_file(&fresh);
            write_fault(path, error)
        })?;
        Ok(Self { path: path.to_owned(), file, end, next: entries.len() as u64 + 1 })
    }
}

/// A whole file, sealed, and where its seal stands.
fn file_bytes(entries: &[JournalEntry]) -> Result<(Vec<u8>, u64), JournalError> {
    let (mut bytes, mut batch, mut next) = (frame::header().to_vec(), Batch::default(), 1);
    for entry in entries {
        let entry = encode(entry)?;
        if !batch.fits(entry.len()) {
            bytes.extend(batch.frame(next));
            next += batch.entries();
            batch = Batch::default();
        }
        batch.push(&entry);
    }
    if !batch.is_empty() {
        bytes.extend(batch.frame(next));
        next += batch.entries();
    }
    let end = bytes.len() as u64;
    bytes.extend(frame::seal(next));
    Ok((bytes, end))
}

/// # Errors
/// An entry that is too large for a frame.
pub(super) fn encode(entry: &JournalEntry) -> Result<Vec<u8>, JournalError> {
    let bytes = entry.encode();
    if bytes.len() > ENTRY_BYTES_MAX { Err(JournalError::Entry(bytes.len())) } else { Ok(bytes) }
}

/// Whole or not at all, under either name.
fn put(fresh: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(fresh)?;
    fail_point!("journal::fresh");
    file.write_all(bytes)?;
    fail_point!("journal::fresh_written");
    file.sync_all()?;
    fail_point!("journal::fresh_synced");
    fs::rename(fresh, path)?;
    fail_point!("journal::renamed");
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    fail_point!("journal::directory_synced");
    Ok(file)
}

fn read_fault(path: &Path, cause: io::Error) -> JournalError {
    JournalError::Read { path: path.to_owned(), cause: Arc::new(cause) }
}

fn write_fault(path: &Path, cause: io::Error) -> JournalError {
    JournalError::Write { path: path.to_owned(), cause: Arc::new(cause) }
}
