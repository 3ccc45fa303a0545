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
    (Checkpoints::start(store, &settings, health, &tasks).unwrap(), tasks)
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
