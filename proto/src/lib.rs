//! The wire: generated messages, fallible conversion to domain types on receipt, and clients that
//! speak domain types. No decisions are taken here.

mod accept;
mod channel;
mod client;
mod convert;
mod journal;
mod pulse;
mod span;
mod status;
mod version;
mod weight_files;
pub mod wire;
mod work;

pub use accept::{AcceptingServer, Peer, accept};
pub use channel::{ChannelError, ChannelSettings, Line, connect, line};
pub use client::{
    CoordinatorClient, DirectiveStream, LearnerClient, ReceiptStream, WeakClient, WeakInbox,
    WeakOutbox,
};
pub use convert::{
    CHUNK_BYTES, ConvertError, WeightAssembler, WeightError, group_bytes, weight_chunks,
};
pub use journal::{EvalStage, JOURNAL_FORMAT, JournalEntry, JournalEntryError};
pub use pulse::{Inspection, Measured, MemberView, Pulse, WAIT_CHARS_MAX, WAITS_MAX, Wait};
pub use span::{Open, SpanFailure, SpanFault, SpanReply, SpanRequest, SpanWritten, WeakMessage};
pub use status::{ErrorCode, RpcError};
pub use version::{VersionSkew, version};
pub use weight_files::WeightFiles;
pub use work::{
    Completion, Departure, Directive, Formation, LeaseAsk, Rank, Receipt, ReceiptCode,
    Registration, ReturnReason, ReturnedGroup, Role, StepRecord, WorkItem,
};
