//! What the training thread sees of the one that writes.

use std::fs;
use std::path::Path;

use runtime::Shutdown;

use super::super::tests::{contents, moments, names};
use super::*;

const LIMIT: Duration = Duration::from_secs(60);
const RUN: u64 = 3;

fn start(dir: &Path, keep: u32, timeout_ms: u32) -> (Checkpoints, TaskGroup) {
    let store = CheckpointStore::open(dir.to_owned(), keep).unwrap();
    let mut settings = Settings::default();
    settings.checkpoint.write_timeout_ms = timeout_ms;
    let tasks = TaskGroup::new(Shutdown::new());
    let health = Health::of_progress(LIMIT);
    (Checkpoints::start((store, None), &settings, health, &tasks).unwrap(), tasks)
}

fn begin(checkpoints: &mut Checkpoints, step: u32) -> anyhow::Result<()> {
    let weights = miniature::fresh_weights(miniature::Role::Strong, u64::from(step));
    checkpoints.begin(contents(step, &weights, &moments()))
}

#[test]
fn what_is_whole_is_news_once_and_older_ones_go_when_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut checkpoints, _tasks) = start(dir.path(), 1, 60_000);
    assert_eq!(checkpoints.news().unwrap(), None);
    for step in [1, 2] {
        begin(&mut checkpoints, step).unwrap();
    }
    checkpoints.settle().unwrap();
    assert_eq!(checkpoints.news().unwrap().as_deref(), Some("step-000002"), "the newest");
    assert_eq!(checkpoints.news().unwrap(), None);
    checkpoints.committed(1).unwrap();
    assert_eq!(names(checkpoints.store()), ["step-000001", "step-000002"]);
    checkpoints.committed(2).unwrap();
    assert_eq!(names(checkpoints.store()), ["step-000002"]);
    // The thread deletes what a commit has made superfluous in the meantime.
    begin(&mut checkpoints, 3).unwrap();
    checkpoints.committed(3).unwrap();
    begin(&mut checkpoints, 4).unwrap();
    checkpoints.settle().unwrap();
    assert_eq!(names(checkpoints.store()), ["step-000003", "step-000004"]);
}

#[test]
fn what_is_discarded_is_no_news_and_counts_as_never_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut checkpoints, _tasks) = start(dir.path(), 1, 60_000);
    for step in [1, 2] {
        begin(&mut checkpoints, step).unwrap();
        checkpoints.committed(step).unwrap();
    }
    begin(&mut checkpoints, 3).unwrap();
    checkpoints.discard_after(2, RUN).unwrap();
    assert_eq!(checkpoints.news().unwrap(), None);
    assert_eq!(names(checkpoints.store()), ["step-000002"]);
    begin(&mut checkpoints, 3).unwrap();
    checkpoints.settle().unwrap();
    let both = ["step-000002", "step-000003"];
    assert_eq!(names(checkpoints.store()), both, "step 3 is not committed in this history");
}

#[tokio::test]
async fn a_failure_is_told_and_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (mut checkpoints, tasks) = start(dir.path(), 3, 60_000);
    begin(&mut checkpoints, 1).unwrap();
    checkpoints.settle().unwrap();
    fs::write(dir.path().join(".unfinished-step-000002"), "no directory").unwrap();
    begin(&mut checkpoints, 2).unwrap();
    let error = checkpoints.settle().unwrap_err().to_string();
    assert!(error.contains("cannot write checkpoint") && error.contains("step-000002"), "{error}");
    let after = begin(&mut checkpoints, 3).unwrap_err().to_string();
    assert!(after.contains("no checkpoint can be written any more"), "{after}");
    let ended = format!("{:#}", tasks.join(LIMIT).await.unwrap_err());
    assert!(ended.contains("task checkpoints failed: cannot write checkpoint"), "{ended}");
    assert_eq!(checkpoints.store().steps().unwrap(), [1]);
}

#[test]
fn a_disk_that_does_not_answer_is_given_up_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (mut checkpoints, _tasks) = start(dir.path(), 3, 0);
    let (_never, outcomes) = sync_channel(1);
    checkpoints.outcomes = outcomes;
    begin(&mut checkpoints, 1).unwrap();
    let error = checkpoints.settle().unwrap_err().to_string();
    assert!(error.contains("step-000001 is not written after 0 ms"), "{error}");
    assert!(error.contains("checkpoint.write_timeout_ms"), "{error}");
}

fn writer(dir: &Path, committed: u32, free_bytes: fn(&Path) -> io::Result<u64>) -> Writer {
    Writer {
        store: CheckpointStore::open(dir.to_owned(), 3).unwrap(),
        wishes: None,
        committed: Arc::new(AtomicU32::new(committed)),
        settings: Checkpoint { free_bytes_min: 1_000, ..Checkpoint::default() },
        free_bytes,
    }
}

fn write(writer: &Writer, step: u32) -> anyhow::Result<u32> {
    let weights = miniature::fresh_weights(miniature::Role::Strong, u64::from(step));
    writer.write(contents(step, &weights, &moments()))
}

#[test]
fn row_14_a_checkpoint_that_does_not_fit_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let roomy = writer(dir.path(), 0, |_| Ok(1 << 40));
    assert!((1..=2).all(|step| write(&roomy, step).is_ok()));
    let whole: Vec<u64> = roomy.store.sizes(9).unwrap().into_iter().map(|(_, size)| size).collect();
    assert_eq!(whole.len(), 2);
    // Both stay: three are to be kept, of which the next one is the third.
    let short = writer(dir.path(), 2, |_| Ok(1_000));
    let error = format!("{:#}", write(&short, 3).unwrap_err());
    assert!(error.contains("cannot write checkpoint") && error.contains("step-000003"), "{error}");
    let path = dir.path().display().to_string();
    for part in [path.as_str(), "1000 bytes free", "the 1000 that are to stay free", "make room"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let weights = miniature::fresh_weights(miniature::Role::Strong, 0).len() as u64;
    let needed = error.split_once("but ").unwrap().1.split(' ').next().unwrap();
    let needed: u64 = needed.parse().unwrap();
    assert!((weights..whole[0]).contains(&needed), "{weights} < {needed} < {whole:?}");
    assert_eq!(names(&short.store), ["step-000001", "step-000002"], "and nothing partial");
}

#[test]
fn what_the_next_checkpoint_replaces_makes_room_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let roomy = writer(dir.path(), 0, |_| Ok(1 << 40));
    assert!((1..=4).all(|step| write(&roomy, step).is_ok()));
    // Step 4 is not committed, so that 1 to 3 are the committed ones.
    let short = writer(dir.path(), 3, |_| Ok(2_000));
    write(&short, 5).unwrap();
    let left = ["step-000002", "step-000003", "step-000004", "step-000005"];
    assert_eq!(names(&short.store), left);
}

#[test]
fn a_learner_says_at_its_start_that_there_will_be_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(dir.path().to_owned(), 3).unwrap();
    let settings = Settings::default();
    store.check_room(&settings, 1).unwrap();
    let error = store.check_room(&settings, u64::MAX / 2).unwrap_err().to_string();
    assert!(error.contains(&(u64::MAX / 2).to_string()) && error.contains("free"), "{error}");
}
