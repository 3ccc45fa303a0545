//! Checkpoints against kills, full disks and flipped bits.

use std::collections::BTreeMap;

use ::tests::{die_at, limit_files, run_alone, task};

use super::tests::{contents, moments, names};
use super::*;

const KEEP: u32 = 9;
/// All of a write that replaces a checkpoint of the same step.
const POINTS: [&str; 10] = [
    "checkpoint::begun",
    "checkpoint::weights_written",
    "checkpoint::optimizer_written",
    "checkpoint::state_written",
    "checkpoint::synced",
    "checkpoint::aside",
    "checkpoint::renamed",
    "checkpoint::directory_synced",
    "checkpoint::retiring",
    "checkpoint::retired",
];
/// Only where a checkpoint of the same step is there before.
const REPLACING: [&str; 3] = ["checkpoint::aside", "checkpoint::retiring", "checkpoint::retired"];
const ROUNDS: u32 = 10;

fn open(dir: &Path) -> CheckpointStore {
    CheckpointStore::open(dir.to_owned(), KEEP).unwrap()
}

fn weights(seed: u64) -> Vec<u8> {
    miniature::fresh_weights(miniature::Role::Strong, seed)
}

fn write(store: &CheckpointStore, step: u32, seed: u64) -> anyhow::Result<String> {
    store.write(contents(step, &weights(seed), &moments()))
}

/// Loads the checkpoint of a step, if there is one, and returns the bytes of its weights.
fn loaded(dir: &Path, step: u32) -> Option<Vec<u8>> {
    let path = dir.join(CheckpointStore::name(step));
    path.exists().then(|| {
        let checkpoint = load_checkpoint(&path).unwrap();
        assert_eq!(checkpoint.state.step, step);
        assert_eq!(checkpoint.optimizer.names().len(), 2);
        fs::read(path.join(WEIGHTS)).unwrap()
    })
}

#[test]
#[ignore = "row 4 runs it as a process of its own"]
fn writes_until_it_is_killed() {
    let Some(task) = task() else { return };
    let [dir, point, step, seed] = task.split(' ').collect::<Vec<_>>().try_into().unwrap();
    die_at(point, 1);
    write(&open(Path::new(dir)), step.parse().unwrap(), seed.parse().unwrap()).unwrap();
}

#[test]
fn row_4_a_kill_at_every_point_leaves_the_old_or_the_new_checkpoint() {
    let (mut olds, mut news) = (0, 0);
    for point in POINTS {
        let root = tempfile::tempdir().unwrap();
        let (dir, mut there) = (root.path(), BTreeMap::new());
        write(&open(dir), 4, 0).unwrap();
        there.insert(4, weights(0));
        for round in 1..=ROUNDS {
            let step = if REPLACING.contains(&point) || round % 2 == 0 { 4 } else { 4 + round };
            let task = format!("{} {point} {step} {round}", dir.display());
            let child = run_alone("checkpoint::faults::writes_until_it_is_killed", &task);
            assert!(child.was_killed(), "{point}: {:?}\n{}", child.status, child.output);
            let store = open(dir);
            let (old, new) = (there.get(&step).cloned(), Some(weights(round.into())));
            let found = loaded(dir, step);
            match () {
                () if found == new => news += 1,
                () if found == old => olds += 1,
                () => panic!("{point}, round {round}: neither the old nor the new checkpoint"),
            }
            found.map(|found| there.insert(step, found));
            let expected: Vec<u32> = there.keys().copied().collect();
            assert_eq!(store.steps().unwrap(), expected, "{point}, round {round}");
            assert_eq!(names(&store).len(), expected.len(), "nothing else is left: {point}");
            assert_eq!(loaded(dir, 4).as_ref(), there.get(&4), "{point}, round {round}");
        }
    }
    println!("row 4: {} kills left {olds} old and {news} new checkpoints, none torn", olds + news);
    assert_eq!(olds + news, 100);
    assert!(olds >= 40 && news >= 40, "{olds} {news}");
}

#[test]
#[ignore = "row 14 runs it as a process of its own"]
fn writes_to_a_full_disk() {
    let Some(dir) = task() else { return };
    let store = open(Path::new(&dir));
    write(&store, 4, 0).unwrap();
    let length = weights(0).len() as u64;
    for limit in [100, length / 2, length - 1] {
        for step in [4, 6] {
            limit_files(limit);
            let written = write(&store, step, 1);
            // What libtest prints goes to a file, too.
            limit_files(u64::MAX);
            let error = format!("{:#}", written.unwrap_err());
            let name = CheckpointStore::name(step);
            assert!(error.contains(&format!("cannot write checkpoint {dir}/{name}")), "{error}");
            assert!(error.contains("File too large"), "{error}");
        }
    }
}

#[test]
fn row_14_a_full_disk_leaves_the_old_checkpoint_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let test = "checkpoint::faults::writes_to_a_full_disk";
    let child = run_alone(test, root.path().to_str().unwrap());
    assert!(child.status.success(), "{}", child.output);
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["step-000004"]);
    assert_eq!(loaded(root.path(), 4), Some(weights(0)));
}

#[test]
fn row_15_every_flipped_bit_of_a_checkpoint_is_refused() {
    let root = tempfile::tempdir().unwrap();
    write(&open(root.path()), 4, 0).unwrap();
    let dir = root.path().join("step-000004");
    let files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 6);
    let mut flips: BTreeMap<&Path, u32> = BTreeMap::new();
    for flip in 0u64..1_000 {
        let file = &files[(flip % files.len() as u64) as usize];
        let whole = fs::read(file).unwrap();
        let draw = u64::from_le_bytes(*Hash::of(&flip.to_le_bytes()).0.first_chunk().unwrap());
        let bit = (draw % (whole.len() as u64 * 8)) as usize;
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(file, bytes).unwrap();
        let found = load_checkpoint(&dir);
        let error = format!("{:#}", found.err().unwrap_or_else(|| panic!("{file:?}, bit {bit}")));
        let named = error.contains(file.to_str().unwrap());
        assert!(named && error.contains("use an older checkpoint"), "bit {bit}: {error}");
        fs::write(file, whole).unwrap();
        *flips.entry(file).or_default() += 1;
    }
    assert_eq!(flips.values().sum::<u32>(), 1_000);
    assert!(flips.values().all(|count| *count > 100));
    println!("row 15, checkpoints: 1,000 of 1,000 flips refused, in {} files", flips.len());
    load_checkpoint(&dir).unwrap();
}

#[test]
fn a_state_of_an_earlier_version_has_no_hash_of_its_own_and_is_read() {
    let root = tempfile::tempdir().unwrap();
    write(&open(root.path()), 4, 0).unwrap();
    let dir = root.path().join("step-000004");
    let text = fs::read_to_string(dir.join(STATE)).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    state.as_object_mut().unwrap().remove("own_hash").unwrap();
    fs::write(dir.join(STATE), state.to_string()).unwrap();
    assert_eq!(load_checkpoint(&dir).unwrap().state.own_hash, "");
}
