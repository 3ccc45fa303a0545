//! Processes that are killed or stopped in the middle of a run, and runs that are gone on with.
//! Tests are named after the rows of the table in `docs/reliability.md`.

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Run, wait_until};

use crate::{LIMIT, small};

const STEPS: u32 = 12;

/// A run of `STEPS` steps without evaluations.
fn start(more: &[&str]) -> Run {
    let common = ["--steps", "12", "--set", "eval.enabled=false"];
    Run::start(&small(&[&common, more].concat()))
}

/// Every group is in it once, and every step has its line.
pub(crate) fn check_whole(run: &Run) {
    let summary = run.summary();
    let of = |key: &str| summary.number(&format!("groups/{key}"));
    assert_eq!((of("consumed"), of("trained_twice")), (f64::from(STEPS) * 8.0, 0.0));
    assert_eq!(steps(run), (1..=u64::from(STEPS)).collect::<Vec<_>>(), "no gap, nothing twice");
}

/// The steps of `metrics.jsonl`.
pub(crate) fn steps(run: &Run) -> Vec<u64> {
    let text = std::fs::read_to_string(run.dir().join("metrics.jsonl")).unwrap();
    let step = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap();
    text.lines().map(step).collect()
}

/// A process dies in the middle of a run; what was said of it.
fn survives(names: &[&str], more: &[&str]) -> String {
    let mut run = start(more);
    run.wait_for_steps(3, LIMIT);
    names.iter().for_each(|name| run.signal_child(name, Signal::SIGKILL));
    let ended = run.wait(LIMIT);
    ended.expect_code(0);
    for name in names {
        let told = format!("{name} was killed by SIGKILL and is started again");
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    }
    check_whole(&run);
    ended.stderr
}

#[test]
fn row_1_an_actor_that_is_killed_loses_no_sample() {
    survives(&["actor-0"], &[]);
}

#[test]
fn row_2_all_actors_are_killed_and_the_run_goes_on() {
    survives(&["actor-0", "actor-1"], &[]);
}

#[test]
fn row_3_a_killed_learner_goes_on_from_its_checkpoint() {
    let told = survives(&["learner-0"], &[]);
    assert!(told.contains("the learner is there again after step"), "{told}");
}

#[test]
fn a_killed_weak_server_costs_no_group() {
    survives(&["weak-server-0"], &[]);
}

#[test]
fn a_weak_server_that_is_started_again_gets_its_actors_back() {
    let endless = ["--steps", "5000", "--set", "eval.enabled=false", "--weak-servers", "2"];
    let mut run = Run::start(&small(&endless));
    run.wait_for_steps(3, LIMIT);
    run.signal_child("weak-server-1", Signal::SIGKILL);
    let addresses = |log: &str, line: &str| -> Vec<String> {
        let lines = log.lines().filter(|found| found.contains(line));
        lines.filter_map(|line| tests::log_field(line, "address")).collect()
    };
    wait_until("its return", LIMIT, || {
        let served = addresses(&run.log("weak-server-1"), "serving");
        let asked = addresses(&run.log("actor-1"), "connected to a weak server");
        (served.len() == 2 && asked.last() == served.last()).then_some(())
    });
    run.signal(Signal::SIGTERM);
    run.wait(LIMIT).expect_code(143);
}

#[test]
fn either_of_two_ranks_is_killed_and_no_step_is_undone() {
    for rank in ["learner-0", "learner-1"] {
        let told = survives(&[rank], &["--learners", "2"]);
        assert!(!told.contains("undone"), "the other rank has the state: {told}");
    }
}

#[test]
fn row_12_an_actor_that_was_stopped_past_its_lease_is_refused_and_goes_on() {
    let short = ["coordinator.lease_deadline_ms=8000", "actor.span_deadline_ms=1200"];
    let short = short.iter().flat_map(|key| ["--set", key]);
    let mut run = start(&short.collect::<Vec<_>>());
    run.wait_for_steps(2, LIMIT);
    run.signal_child("actor-0", Signal::SIGSTOP);
    let stopped = run.steps();
    // Its leases run out, and the other actor writes their groups.
    run.wait_for_steps(stopped + 3, LIMIT);
    run.signal_child("actor-0", Signal::SIGCONT);
    run.wait(LIMIT).expect_code(0);
    check_whole(&run);
}

#[test]
fn a_process_that_ends_again_and_again_ends_the_run_by_name() {
    let mut run = start(&["--set", "coordinator.restarts_max=0"]);
    run.wait_for_steps(1, LIMIT);
    run.signal_child("weak-server-0", Signal::SIGKILL);
    let ended = run.wait(LIMIT);
    ended.expect_code(1);
    let words = ["weak-server-0 was killed by SIGKILL", "coordinator.restarts_max", "--resume"];
    for word in words {
        assert!(ended.stderr.contains(word), "no `{word}` in:\n{}", ended.stderr);
    }
}

#[test]
fn row_5_a_killed_coordinator_is_resumed_where_its_history_ends() {
    let mut run = start(&["--learners", "2"]);
    run.wait_for_steps(5, LIMIT);
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    let before = run.steps();

    // Other settings are refused by name, and nothing is changed.
    let resume = ["launch", "--resume", "--run-dir", "{dir}"];
    let other = run.then(&[&resume[..], &["--steps", "13"]].concat(), LIMIT);
    other.expect_code(2);
    assert!(other.stderr.contains("train.steps was 12 and is 13"), "{}", other.stderr);
    assert_eq!(run.steps(), before);

    // It is killed once more, and then left to its end.
    run.start_again(&resume);
    run.wait_for_steps(before + 2, LIMIT);
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    let ended = run.then(&resume, LIMIT);
    ended.expect_code(0);
    assert!(ended.stderr.contains("going on after step"), "{}", ended.stderr);
    check_whole(&run);

    let complete = run.then(&resume, LIMIT);
    complete.expect_code(1);
    assert!(complete.stderr.contains("is complete"), "{}", complete.stderr);
}

#[test]
fn supervised_training_is_resumed_as_well() {
    let recipe = ["sft", "--config", "sft-miniature-weak", "--run-dir", "{dir}", "--steps", "30"];
    let set = ["--set", "checkpoint.every_steps=4", "--set", "gates.problems=8"];
    let mut run = Run::start(&[&recipe[..], &set].concat());
    run.wait_for_steps(10, LIMIT);
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    let ended = run.then(&["sft", "--resume", "--run-dir", "{dir}"], LIMIT);
    // So few steps do not pass the gates.
    ended.expect_code(1);
    let told = ended.stderr.lines().find(|line| line.starts_with("going on")).unwrap_or_default();
    let from: usize = told.split_whitespace().nth(4).and_then(|step| step.parse().ok()).unwrap();
    assert!((10..30).contains(&from), "{told}");
    assert_eq!(steps(&run), (1..=30).collect::<Vec<_>>(), "no gap, nothing twice");
}

#[test]
fn row_14_no_run_begins_on_a_disk_that_is_nearly_full() {
    let mut run = start(&["--set", "checkpoint.free_bytes_min=1000000000000000000"]);
    let ended = run.wait(LIMIT);
    ended.expect_code(1);
    let dir = run.dir().display().to_string();
    for word in [&dir, " bytes free", "the 1000000000000000000 that are to stay free", "make room"]
    {
        assert!(ended.stderr.contains(word), "no `{word}` in:\n{}", ended.stderr);
    }
    assert!(run.logs().is_empty(), "no process was started: {:?}", run.logs());
}

#[test]
fn row_11_a_second_learner_is_refused() {
    let mut run = start(&[]);
    run.wait_for_steps(1, LIMIT);
    // Without actors the run does not end before the second learner is there.
    let actors = ["actor-0", "actor-1"];
    actors.iter().for_each(|name| run.signal_child(name, Signal::SIGSTOP));
    let log = run.log("coordinator");
    let coordinator = wait_until("the coordinator's address", LIMIT, || {
        let (_, rest) = log.split_once("address=")?;
        rest.split_whitespace().next().map(str::to_owned)
    });
    let second = std::process::Command::new(tests::Programs::get().path("learner"))
        .args(["--config", run.dir().join("config.toml").to_str().unwrap()])
        .args(["--coordinator", &coordinator])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(told.contains("learner-0 is here already"), "{told}");
    actors.iter().for_each(|name| run.signal_child(name, Signal::SIGCONT));
    run.wait(LIMIT).expect_code(0);
    check_whole(&run);
}
