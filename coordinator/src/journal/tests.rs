//! The journal against damage, crashes, full disks and disorder.

mod crash;
mod full;
mod order;
mod replay;
mod scan;

use std::path::Path;
use std::time::Duration;

use proto::{EvalStage, StepRecord};
use runtime::{Shutdown, TaskGroup};
use types::{Epoch, Generation, GroupId, MemberId, PolicyVersion};

use super::*;
use proto::JournalEntry;

const RUN: u64 = 0x51;
const AMPLE: Duration = Duration::from_secs(60);
const LIMITS: JournalLimits = JournalLimits { timeout: AMPLE, queue_bytes: 1 << 20 };

fn opened() -> JournalEntry {
    JournalEntry::Opened { run: RUN, format: proto::JOURNAL_FORMAT }
}

fn formed(generation: u32, step: u32) -> JournalEntry {
    JournalEntry::Formed { generation: Generation(generation), step }
}

fn granted(group: u64, epoch: u32) -> JournalEntry {
    JournalEntry::Granted { group: GroupId(group), epoch: Epoch(epoch) }
}

fn record(step: u32) -> StepRecord {
    StepRecord {
        member: MemberId(1),
        step,
        version: PolicyVersion::new(1, step),
        groups: (0..8).map(|i| GroupId(u64::from(step - 1) * 8 + i)).collect(),
        groups_trained: 8,
        strong_tokens: 900,
        values: [("loss".to_owned(), 1.0 / f64::from(step))].into(),
        ..StepRecord::default()
    }
}

fn committed(step: u32) -> JournalEntry {
    JournalEntry::Committed { record: record(step), wall: Duration::from_millis(step.into()) }
}

fn evaluated(step: u32, result: &str) -> JournalEntry {
    JournalEntry::Evaluated { stage: EvalStage::During, step, result: result.to_owned() }
}

/// One of many, told apart by its number; some fill several pages.
fn numbered(number: u64) -> JournalEntry {
    match number % 5 {
        0 => evaluated(number as u32, &"x".repeat(9_000)),
        1 | 2 => committed(number as u32 + 1),
        _ => granted(number, 1),
    }
}

fn entries_in(path: &Path) -> Vec<JournalEntry> {
    JournalFile::open(path).unwrap().1.entries
}

/// The bytes of a file that was written in frames of these entries.
fn bytes_of(frames: &[Vec<JournalEntry>], sealed: bool) -> Vec<u8> {
    let (mut bytes, mut next) = (frame::header().to_vec(), 1);
    for entries in frames {
        let mut batch = frame::Batch::default();
        entries.iter().for_each(|entry| batch.push(&entry.encode()));
        bytes.extend(batch.frame(next));
        next += batch.entries();
    }
    if sealed {
        bytes.extend(frame::seal(next));
    }
    bytes
}

fn group() -> TaskGroup {
    TaskGroup::new(Shutdown::new())
}

async fn end(journal: Journal, tasks: &TaskGroup) {
    journal.close();
    tasks.join(AMPLE).await.unwrap();
}
