//! A run whose checkpoints are in a store: its own copies may be lost.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use tests::{Run, alive, wait_until};

use crate::reliability::check_whole;
use crate::{LIMIT, small};

/// Names of whole checkpoints under the one run that a store holds.
fn stored(store: &Path) -> Vec<String> {
    let Some(run) = fs::read_dir(store).unwrap().next() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(run.unwrap().path().join("checkpoints")) else {
        return Vec::new();
    };
    let whole =
        entries.map(|entry| entry.unwrap()).filter(|e| e.path().join("state.json").is_file());
    let mut names: Vec<String> = whole.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_that_lost_its_checkpoints_goes_on_from_the_store_and_is_evaluated_from_it() {
    let store = tempfile::tempdir().unwrap();
    let url = format!("store.url=file://{}", store.path().display());
    let set = ["train.steps=12", "checkpoint.keep=2", "eval.enabled=false", "eval.every_steps=0"];
    let mut flags: Vec<&str> = set.iter().flat_map(|pair| ["--set", *pair]).collect();
    flags.extend(["--set", &url]);
    let mut run = Run::start(&small(&flags));
    wait_until("a stored checkpoint", LIMIT, || {
        stored(store.path()).iter().any(|name| name >= &"step-000004".to_owned()).then_some(())
    });
    let learner = run.child("learner-0").unwrap();
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    // The other processes end with it, in their own time.
    wait_until("the learner's end", LIMIT, || (!alive(learner)).then_some(()));
    fs::remove_dir_all(run.dir().join("checkpoints")).unwrap();

    let resumed = run.then(&["launch", "--resume", "--run-dir", "{dir}"], LIMIT);
    resumed.expect_code(0);
    let log = run.log("learner-0");
    for told in ["fetched a checkpoint", "goes on from a checkpoint", "stored a checkpoint"] {
        assert!(log.contains(told), "no `{told}` in:\n{log}");
    }
    check_whole(&run);
    let last = "step-000012".to_owned();
    assert_eq!(stored(store.path()).last(), Some(&last));

    fs::remove_dir_all(run.dir().join("checkpoints")).unwrap();
    let eval = run.then(&["eval", "{dir}", "--limit", "16"], LIMIT);
    eval.expect_code(0);
    let from = format!("fetching the checkpoint of step 12 from file://{}", store.path().display());
    assert!(eval.stderr.contains(&from), "{}", eval.stderr);
    fs::remove_dir_all(run.dir().join("checkpoints")).unwrap();
    let export = ["model", "export", "{dir}", "--checkpoint", "12", "--out", "{dir}/exported"];
    let exported = run.then(&export, LIMIT);
    exported.expect_code(0);
    assert!(exported.stdout.contains("step 12: "), "{}", exported.stdout);

    fs::remove_dir_all(run.dir().join("checkpoints")).unwrap();
    fs::remove_dir_all(store.path()).unwrap();
    let gone = run.then(&["eval", "{dir}"], LIMIT);
    gone.expect_code(1);
    assert!(gone.stderr.contains("which is not there: make it, or mount"), "{}", gone.stderr);
}
