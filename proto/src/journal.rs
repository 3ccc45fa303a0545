//! What the coordinator writes down before it answers, as domain types. The file that entries lie
//! in, and what follows from them, are the coordinator's.

use std::time::Duration;

use types::{Epoch, Generation, GroupId};

use crate::convert::ConvertError;
use crate::work::StepRecord;

/// Of the entries; `Opened` says it.
pub const JOURNAL_FORMAT: u32 = 1;

/// One thing that must not be forgotten.
#[derive(Clone, Debug, PartialEq)]
pub enum JournalEntry {
    /// The first entry: whose journal it is.
    Opened { run: u64, format: u32 },
    /// The learners went on from this step: later commits are void.
    Formed { generation: Generation, step: u32 },
    /// A group was dealt under this epoch.
    Granted { group: GroupId, epoch: Epoch },
    /// A step was taken, at that time of the run.
    Committed { record: StepRecord, wall: Duration },
    /// An evaluation found this, as JSON.
    Evaluated { stage: EvalStage, step: u32, result: String },
}

/// Which evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvalStage {
    Before,
    During,
    After,
}

/// Why bytes are no entry.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JournalEntryError {
    #[error("the bytes are no journal entry: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
}
