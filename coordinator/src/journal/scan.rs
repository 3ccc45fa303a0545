//! What a journal's bytes say, and what their damage means: a torn end was never acknowledged and is
//! cut off, anything else is refused. Pure; reading and cutting is `file`'s.

use proto::{JournalEntry, JournalEntryError};

use super::frame::{self, FORMAT, FRAME_BYTES_MAX, Frame, HEADER_BYTES};

/// The content of a sound file.
#[derive(Debug, PartialEq)]
pub struct Scan {
    pub entries: Vec<JournalEntry>,
    /// Up to the end of the last frame with entries: the next one goes there.
    pub valid_bytes: u64,
    /// Whether a seal stands there.
    pub sealed: bool,
    pub torn: Option<Torn>,
}

/// The end of a file that a write left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    pub offset: u64,
    pub bytes: u64,
}

/// Why a file is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScanError {
    #[error("does not begin as a journal does: move it away")]
    NoJournal,
    #[error("has format {0}, this program reads {FORMAT}: use the program that wrote it")]
    Format(u32),
    #[error(
        "is damaged at byte {offset}, in what was acknowledged; the {entries} entries before, up to \
         step {step}, are sound: restore the file from a copy, or give up all that follows with \
         `truncate --size={offset}` on it"
    )]
    Damaged { offset: usize, entries: usize, step: u32 },
    #[error(
        "holds an entry at byte {offset} that is unknown here ({cause}): use the program that wrote \
         it"
    )]
    Entry { offset: usize, cause: JournalEntryError },
    #[error("has lengths at byte {0} that do not add up: use the program that wrote it")]
    Lengths(usize),
}

/// Reads a whole file.
///
/// # Errors
/// Bytes that are no journal, or damage to anything that may have been acknowledged.
pub fn scan(bytes: &[u8]) -> Result<Scan, ScanError> {
    match frame::format_of(bytes) {
        None => return Err(ScanError::NoJournal),
        Some(FORMAT) => {}
        Some(other) => return Err(ScanError::Format(other)),
    }
    let mut entries = Vec::new();
    let (mut at, mut sealed, mut torn) = (HEADER_BYTES, false, None);
    while at < bytes.len() {
        let due = entries.len() as u64 + 1;
        let Some(frame) = Frame::read(&bytes[at..], due..due + 1).filter(|_| !sealed) else {
            if is_acknowledged(bytes, at, due) {
                let step = last_step(&entries);
                return Err(ScanError::Damaged { offset: at, entries: entries.len(), step });
            }
            torn = Some(Torn { offset: at as u64, bytes: (bytes.len() - at) as u64 });
            break;
        };
        for entry in frame.entries().ok_or(ScanError::Lengths(at))? {
            let fault = |cause| ScanError::Entry { offset: at, cause };
            entries.push(JournalEntry::decode(entry).map_err(fault)?);
        }
        sealed = frame.is_seal();
        at += frame.bytes();
    }
    let seal = if sealed { frame::HEAD_BYTES } else { 0 };
    Ok(Scan { entries, valid_bytes: (at - seal) as u64, sealed, torn })
}

/// Whether what stands at `at`, and is not the frame that is due, may have been acknowledged. More
/// than one frame is never under way, and nothing is written behind one that is.
fn is_acknowledged(bytes: &[u8], at: usize, due: u64) -> bool {
    let rest = &bytes[at..];
    let sequences = due..due.saturating_add(rest.len() as u64 + 1);
    rest.len() > FRAME_BYTES_MAX
        || (0..rest.len()).any(|from| Frame::read(&rest[from..], sequences.clone()).is_some())
}

fn last_step(entries: &[JournalEntry]) -> u32 {
    let steps = entries.iter().rev().find_map(|entry| match entry {
        JournalEntry::Committed { record, .. } => Some(record.step),
        JournalEntry::Formed { step, .. } => Some(*step),
        _ => None,
    });
    steps.unwrap_or(0)
}
