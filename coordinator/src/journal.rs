//! The coordinator's write-ahead journal: what is acknowledged was on disk before. This file lists
//! its parts and says what can go wrong; which entries are written, and when, is the hub's.
//!
//! A file is a header and frames. A frame holds the entries of one write, and nothing is written
//! behind it before it was synced: so only the last frame can be torn, and it was never
//! acknowledged. The seal, an empty frame, follows it once it is on disk and is overwritten by the
//! next one; with it, damage in what was acknowledged is told from a torn end.

mod file;
mod frame;
mod replay;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use file::{JournalFile, Recovered};
pub use frame::ENTRY_BYTES_MAX;
pub use replay::{ReplayError, Surviving, UNRECORDED_MAX, surviving};
pub use scan::{Scan, ScanError, Torn, scan};
#[cfg(test)]
pub(crate) use writer::Pen;
pub use writer::{Journal, JournalLimits, Ticket};

/// A longer file is neither written nor read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why something is not in the journal. Tickets share the first failure of a write.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot read the journal {path}: {cause}")]
    Read { path: PathBuf, cause: Arc<io::Error> },
    #[error("cannot write the journal {path}: {cause}; is the disk full?")]
    Write { path: PathBuf, cause: Arc<io::Error> },
    #[error("the journal {path} {fault}")]
    Content { path: PathBuf, fault: ScanError },
    #[error(
        "the journal {0} would outgrow {FILE_BYTES_MAX} bytes: stop the run and resume it, which \
         writes it anew and shorter"
    )]
    Outgrown(PathBuf),
    #[error("an entry has {0} bytes, more than the {ENTRY_BYTES_MAX} that the journal takes")]
    Entry(usize),
    #[error(
        "the journal's queue had no room for {waited_ms} ms (coordinator.journal_timeout_ms, \
         coordinator.journal_queue_bytes): is the disk stuck?"
    )]
    Queue { waited_ms: u128 },
    #[error(
        "the journal was not on disk after {waited_ms} ms (coordinator.journal_timeout_ms): is the \
         disk stuck?"
    )]
    Late { waited_ms: u128 },
    #[error("the journal is closed: the run is ending")]
    Closed,
}
