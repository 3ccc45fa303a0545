//! Bytes that are whole, cut short, half written or damaged.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use types::Hash;

use super::*;

fn config(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(15);
    ProptestConfig { cases, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
}

fn any_record() -> impl Strategy<Value = StepRecord> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>(), vec(any::<u64>(), 0..9));
    let values = prop::collection::btree_map("[a-z]{1,8}", -1e300..1e300, 0..5);
    let checkpoint = prop::option::of("step-[0-9]{6}");
    (numbers, values, checkpoint).prop_map(
        |((step, trained, tokens, groups), values, checkpoint)| StepRecord {
            member: MemberId(tokens >> 7),
            step,
            version: PolicyVersion::unpack(tokens),
            groups: groups.into_iter().map(GroupId).collect(),
            groups_trained: trained,
            groups_zero_variance: trained / 3,
            groups_stale: step / 7,
            duplicates_refused: step % 5,
            strong_tokens: tokens,
            weak_tokens: tokens / 2,
            values,
            checkpoint,
        },
    )
}

fn any_entry() -> impl Strategy<Value = JournalEntry> {
    let stage = prop::sample::select(vec![EvalStage::Before, EvalStage::During, EvalStage::After]);
    prop_oneof![
        any::<(u64, u32)>().prop_map(|(run, format)| JournalEntry::Opened { run, format }),
        any::<(u32, u32)>().prop_map(|(generation, step)| formed(generation, step)),
        any::<(u64, u32)>().prop_map(|(group, epoch)| granted(group, epoch)),
        (any_record(), any::<u64>()).prop_map(|(record, wall)| JournalEntry::Committed {
            record,
            wall: Duration::from_nanos(wall)
        }),
        (stage, any::<u32>(), ".{0,200}")
            .prop_map(|(stage, step, result)| JournalEntry::Evaluated { stage, step, result }),
    ]
}

/// Frames with at least one entry each.
fn any_frames() -> impl Strategy<Value = Vec<Vec<JournalEntry>>> {
    vec(vec(any_entry(), 1..5), 0..6)
}

fn flat(frames: &[Vec<JournalEntry>]) -> Vec<JournalEntry> {
    frames.iter().flatten().cloned().collect()
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn what_was_written_is_scanned(frames in any_frames(), sealed: bool) {
        let bytes = bytes_of(&frames, sealed);
        let seal = if sealed { frame::HEAD_BYTES } else { 0 };
        let valid_bytes = (bytes.len() - seal) as u64;
        let expected = Scan { entries: flat(&frames), valid_bytes, sealed, torn: None };
        prop_assert_eq!(scan(&bytes), Ok(expected));
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn a_file_cut_at_any_length_holds_its_whole_frames(frames in any_frames(), sealed: bool) {
        let bytes = bytes_of(&frames, sealed);
        // Where each frame ends, and how many entries there are by then.
        let ends: Vec<(usize, usize)> = (0..=frames.len())
            .map(|n| (bytes_of(&frames[..n], false).len(), frames[..n].iter().map(Vec::len).sum()))
            .collect();
        for length in 0..=bytes.len() {
            let found = scan(&bytes[..length]);
            let Some((end, count)) = ends.iter().rev().find(|(end, _)| *end <= length) else {
                prop_assert_eq!(found, Err(ScanError::NoJournal));
                continue;
            };
            let whole = length == *end || length == bytes.len();
            let torn = Torn { offset: *end as u64, bytes: (length - end) as u64 };
            let expected = Scan {
                entries: flat(&frames)[..*count].to_vec(),
                valid_bytes: *end as u64,
                sealed: sealed && length == bytes.len(),
                torn: (!whole).then_some(torn),
            };
            prop_assert_eq!(found, Ok(expected), "of {} bytes", length);
        }
    }

    /// A disk may write the pages of an unfinished frame in any order, over the old seal.
    #[test]
    fn an_unfinished_frame_costs_nothing_before_it(
        frames in any_frames(),
        last in vec(any_entry(), 1..5),
        lost in vec((any::<prop::sample::Index>(), 1usize..64), 1..6),
    ) {
        let before = bytes_of(&frames, false).len();
        let old = bytes_of(&frames, true);
        let mut bytes = bytes_of(&[frames.as_slice(), &[last]].concat(), false);
        for (from, length) in lost {
            let from = before + from.index(bytes.len() - before);
            for at in from..bytes.len().min(from + length) {
                bytes[at] = old.get(at).copied().unwrap_or(0);
            }
        }
        let found = scan(&bytes).unwrap();
        let count = flat(&frames).len();
        prop_assert_eq!(&found.entries[..count], flat(&frames));
        // All pages may have been written after all.
        prop_assert!(found.entries.len() == count || found.torn.is_none());
    }
}

/// Frames like a run's.
fn run_frames() -> Vec<Vec<JournalEntry>> {
    let mut frames = vec![vec![opened(), formed(1, 0)]];
    for step in 1..=12 {
        frames.push((0..8).map(|i| granted(u64::from(step - 1) * 8 + i, 0)).collect());
        frames.push(vec![committed(step)]);
        frames.push(vec![evaluated(step, r#"{"problems":100}"#), granted(u64::from(step), 1)]);
    }
    frames
}

/// What became of random flips: how many were refused, and how many cut the end off.
fn flips(frames: &[Vec<JournalEntry>], sealed: bool, flips: u32) -> (u32, u32) {
    let (whole, all) = (bytes_of(frames, sealed), flat(frames));
    let kept = if sealed { all.len() } else { all.len() - frames.last().unwrap().len() };
    let (mut refused, mut cut) = (0, 0);
    for flip in 0..flips {
        let mut bytes = whole.clone();
        let draw = u64::from_le_bytes(*Hash::of(&flip.to_le_bytes()).0.first_chunk().unwrap());
        let bit = (draw % (bytes.len() as u64 * 8)) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        match scan(&bytes) {
            Err(_) => refused += 1,
            Ok(found) => {
                assert!(found.torn.is_some(), "bit {bit} went unseen");
                assert_eq!(found.entries, all[..kept], "bit {bit}");
                cut += 1;
            }
        }
    }
    (refused, cut)
}

#[test]
fn row_15_every_flipped_bit_of_a_journal_is_refused_or_cut_off() {
    // Only in the seal itself is there nothing to refuse: no entry goes with it.
    let (refused, cut) = flips(&run_frames(), true, 1_000);
    println!("row 15, sealed journal: {refused} refused, {cut} cut off the seal, of 1,000 flips");
    assert_eq!(refused + cut, 1_000);
    assert!(refused >= 950, "{refused}");
    // As it is between the sync of a frame and its seal.
    let (refused, cut) = flips(&run_frames(), false, 1_000);
    println!("row 15, unsealed journal: {refused} refused, {cut} cut off the last frame, of 1,000");
    assert_eq!(refused + cut, 1_000);
}

#[test]
fn damage_is_refused_with_what_is_sound_and_the_way_out() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let frames = [vec![opened()], vec![committed(1), committed(2)], vec![committed(3)]];
    let offset = bytes_of(&frames[..2], false).len();
    let mut bytes = bytes_of(&frames, true);
    bytes[offset + 40] ^= 8;
    std::fs::write(&path, &bytes).unwrap();
    let text = JournalFile::open(&path).unwrap_err().to_string();
    for part in [
        path.to_str().unwrap(),
        &format!("damaged at byte {offset}"),
        "the 3 entries before, up to step 2",
        &format!("`truncate --size={offset}`"),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a refused file is left alone");
    // The way out is one.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(offset as u64).unwrap();
    assert_eq!(entries_in(&path), [opened(), committed(1), committed(2)]);
}

#[test]
fn gaps_other_formats_and_other_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        JournalFile::open(&path).unwrap_err().to_string()
    };
    let text = refused(b"{\"step\": 1}\n");
    assert!(text.contains("does not begin as a journal does: move it away"), "{text}");
    assert!(refused(b"").contains("does not begin as a journal does"));
    let mut other = bytes_of(&[], true);
    other[8] = 7;
    assert!(refused(&other).contains("has format 7, this program reads 1"));
    // A frame in the middle is missing as a whole.
    let frames = [vec![opened()], vec![committed(1)], vec![committed(2)]];
    let (first, second) = (bytes_of(&frames[..1], false), bytes_of(&frames[..2], false));
    let gap = [&first, &bytes_of(&frames, true)[second.len()..]].concat();
    let text = refused(&gap);
    assert!(text.contains(&format!("damaged at byte {}", first.len())), "{text}");
    // Right checksums around something that is no entry.
    let mut batch = frame::Batch::default();
    batch.push(b"\xff\xff");
    let text = refused(&[frame::header().to_vec(), batch.frame(1)].concat());
    assert!(text.contains("an entry at byte 12 that is unknown here"), "{text}");
}

#[test]
fn a_torn_end_is_cut_off_and_said() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let whole = bytes_of(&[vec![opened()], vec![committed(1)]], false);
    std::fs::write(&path, [whole.as_slice(), &[7; 30]].concat()).unwrap();
    let (_, recovered) = JournalFile::open(&path).unwrap();
    assert_eq!(recovered.entries, [opened(), committed(1)]);
    assert_eq!(recovered.cut, Some(Torn { offset: whole.len() as u64, bytes: 30 }));
    let (_, again) = JournalFile::open(&path).unwrap();
    assert_eq!(again, Recovered { cut: None, ..recovered });
    // From now on damage to it is damage.
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), whole.len() + frame::HEAD_BYTES);
    bytes[whole.len() - 1] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(JournalFile::open(&path).unwrap_err().to_string().contains("is damaged at byte"));
}
