//! Children made of a few words of shell; no program of ours is needed.

use std::time::Duration;

use super::*;

const AMPLE: Duration = Duration::from_secs(30);

struct Shell {
    child: Child,
    /// Keeps the log's directory until the child is done with it.
    _directory: tempfile::TempDir,
}

fn shell(script: &str) -> Shell {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let spec = ChildSpec {
        name: "actor-0".to_owned(),
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("GREETING".to_owned(), "good morning".to_owned())],
        log_path: directory.path().join("logs/actor-0.log"),
    };
    let child = Child::spawn(&spec).expect("sh starts");
    Shell { child, _directory: directory }
}

async fn end_of(shell: &mut Shell) -> String {
    let status = tokio::time::timeout(AMPLE, shell.child.wait()).await.expect("it ends");
    describe_exit(status.expect("it can be waited for"))
}

/// Waits until the child has said `line`: only then are its traps in place.
async fn has_logged(shell: &Shell, line: &str) {
    let seen = async {
        while !shell.child.last_log_lines(10).iter().any(|logged| logged == line) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(AMPLE, seen).await.expect("the child logs the line");
}

#[tokio::test]
async fn the_exit_code_environment_and_both_outputs_are_seen() {
    let mut shell = shell("echo one; echo two >&2; echo $GREETING; exit 7");
    assert_eq!(end_of(&mut shell).await, "exited with code 7");
    assert_eq!(shell.child.last_log_lines(2), ["two", "good morning"]);
    assert_eq!(shell.child.last_log_lines(99), ["one", "two", "good morning"]);
    assert_eq!(shell.child.id(), None);
    shell.child.terminate().expect("nothing happens to a child that has ended");
}

#[tokio::test]
async fn a_running_child_can_be_killed() {
    let mut shell = shell("cat");
    assert!(shell.child.id().is_some());
    shell.child.kill().expect("it runs");
    assert_eq!(end_of(&mut shell).await, "was killed by SIGKILL");
}

#[tokio::test]
async fn terminate_lets_the_child_clean_up() {
    let mut shell = shell("trap 'echo drained; exit 5' TERM; echo ready; while :; do read x; done");
    has_logged(&shell, "ready").await;
    shell.child.terminate().expect("it runs");
    assert_eq!(end_of(&mut shell).await, "exited with code 5");
    assert_eq!(shell.child.last_log_lines(1), ["drained"]);
}

#[tokio::test]
async fn the_lifeline_is_open_until_it_is_closed() {
    let mut shell = shell("echo ready; cat >/dev/null; exit 7");
    has_logged(&shell, "ready").await;
    // With its end of file the child would end, now or in the middle of a later line.
    let early = tokio::time::timeout(Duration::from_millis(200), shell.child.wait()).await;
    assert!(early.is_err(), "it ended before its life-line was closed: {early:?}");
    shell.child.close_lifeline();
    assert_eq!(end_of(&mut shell).await, "exited with code 7");
}

#[tokio::test]
async fn the_child_leads_its_own_process_group() {
    let mut shell = shell("cat");
    let id = i32::try_from(shell.child.id().expect("it runs")).expect("a pid_t");
    let group = nix::unistd::getpgid(Some(Pid::from_raw(id))).expect("it exists");
    assert_eq!(group, Pid::from_raw(id));
    assert_ne!(group, nix::unistd::getpgrp());
    shell.child.kill().expect("it runs");
    end_of(&mut shell).await;
}

#[tokio::test]
async fn a_missing_program_and_an_impossible_log_are_named() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let spec = ChildSpec {
        name: "learner".to_owned(),
        program: directory.path().join("absent"),
        args: Vec::new(),
        env: Vec::new(),
        log_path: directory.path().join("learner.log"),
    };
    let failure = Child::spawn(&spec).expect_err("there is no such program").to_string();
    let program = spec.program.display();
    assert!(failure.starts_with(&format!("cannot start learner from {program}: ")), "{failure}");

    std::fs::write(directory.path().join("file"), "").expect("the directory is writable");
    let log_path = directory.path().join("file/learner.log");
    let failure = Child::spawn(&ChildSpec { program: "sh".into(), log_path, ..spec });
    let failure = failure.expect_err("a file is no directory").to_string();
    assert!(failure.starts_with("cannot open the log "), "{failure}");
}

#[tokio::test]
async fn the_log_of_an_earlier_run_is_kept() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let log_path = directory.path().join("weak.log");
    std::fs::write(&log_path, "earlier\n").expect("the directory is writable");
    let spec = ChildSpec {
        name: "weak-server-0".to_owned(),
        program: "sh".into(),
        args: vec!["-c".into(), "echo later".into()],
        env: Vec::new(),
        log_path,
    };
    let mut child = Child::spawn(&spec).expect("sh starts");
    child.wait().await.expect("it ends");
    assert_eq!(child.last_log_lines(5), ["earlier", "later"]);
}
