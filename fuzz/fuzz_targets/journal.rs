//! A journal of any bytes, one of any sound entries, and that one with a byte changed. Nothing may
//! panic, and no entry may come out that did not go in.

#![no_main]

// By path: the coordinator's other dependencies would cost minutes of building.
#[path = "../../coordinator/src/journal/frame.rs"]
#[allow(dead_code, reason = "limits that only the writer keeps to")]
mod frame;
#[path = "../../coordinator/src/journal/replay.rs"]
mod replay;
#[path = "../../coordinator/src/journal/scan.rs"]
mod scan;

use libfuzzer_sys::fuzz_target;
use proto::JournalEntry;

/// Between entries.
const BETWEEN: u8 = 0xFF;
const FRAME_ENTRIES: usize = 3;

fuzz_target!(|data: &[u8]| {
    if let Ok(found) = scan::scan(data) {
        check_history(found.entries);
    }
    let entries: Vec<JournalEntry> =
        data.split(|byte| *byte == BETWEEN).flat_map(JournalEntry::decode).collect();
    let mut file = frame::header().to_vec();
    let mut next = 1;
    for entries in entries.chunks(FRAME_ENTRIES) {
        let mut batch = frame::Batch::default();
        for entry in entries {
            batch.push(&entry.encode());
        }
        file.extend(batch.frame(next));
        next += batch.entries();
    }
    file.extend(frame::seal(next));
    let found = scan::scan(&file).expect("what was written is sound");
    assert!(found.sealed && found.torn.is_none());
    assert_eq!(found.entries, entries);
    check_history(found.entries);
    if let Some((at, change)) = data.split_first_chunk::<2>().map(|(at, rest)| (at, rest.first()))
        && let Some(change) = change.filter(|change| **change != 0)
    {
        let at = usize::from(u16::from_le_bytes(*at)) % file.len();
        file[at] ^= *change;
        if let Ok(found) = scan::scan(&file) {
            assert_eq!(found.entries, entries, "only the seal may be damaged and cut off");
            assert!(found.torn.is_some());
        }
    }
});

fn check_history(entries: Vec<JournalEntry>) {
    if let Ok(surviving) = replay::surviving(entries) {
        let again = replay::surviving(surviving.entries());
        assert_eq!(again, Ok(surviving), "the shortest journal leaves the same");
    }
}
