//! Ctrl-C, and the death of the coordinator.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Programs, Run, admin_address, alive, http_get, samples, wait_until};

use crate::{LIMIT, small_with};

fn interrupted_in_training(actors: &str) {
    let endless = ["--steps", "500", "--set", "eval.enabled=false"];
    let mut run = Run::start(&small_with(actors, &endless));
    run.wait_for_steps(3, LIMIT);
    let children = run.children();
    assert_eq!(children.len(), 2 + actors.parse::<usize>().unwrap(), "{children:?}");
    run.signal(Signal::SIGINT);
    let ended = run.wait(Duration::from_secs(10));
    ended.expect_code(130);
    assert!(children.iter().all(|pid| !alive(*pid)));
    assert!(ended.stderr.contains("step-0") || ended.stdout.contains("step-0"), "{ended:?}");

    let evaluated = run.then(&["eval", "{dir}", "--limit", "4"], LIMIT);
    evaluated.expect_code(0);
}

#[test]
fn row_24_an_interrupt_in_the_middle_leaves_a_run_that_eval_reads() {
    interrupted_in_training("2");
    interrupted_in_training("8");
}

#[test]
fn an_interrupt_in_the_first_evaluation_ends_the_run_in_time() {
    let mut run = Run::start(&["launch", "--actors", "2", "--run-dir", "{dir}"]);
    let address = wait_until("admin address", LIMIT, || admin_address(&run.log("actor-0")));
    wait_until("evaluation rollouts", LIMIT, || {
        let rollouts = samples(&http_get(&address, "/metrics").1, "tandem_actor_rollouts_total");
        let written = rollouts.iter().filter(|(labels, _)| labels.contains("purpose=\"eval\""));
        (written.map(|(_, count)| count).sum::<f64>() > 0.0).then_some(())
    });
    let children = run.children();
    assert_eq!(children.len(), 4, "{children:?}");
    run.signal(Signal::SIGINT);
    let ended = run.wait(Duration::from_secs(10));
    ended.expect_code(130);
    assert!(children.iter().all(|pid| !alive(*pid)));
    assert_eq!(run.steps(), 0);
    let evaluated = run.then(&["eval", "{dir}", "--limit", "4"], LIMIT);
    evaluated.expect_code(0);
}

#[test]
fn no_child_outlives_a_killed_coordinator() {
    let endless = ["--steps", "500", "--set", "eval.enabled=false"];
    let mut run = Run::start(&small_with("8", &endless));
    run.wait_for_steps(1, LIMIT);
    let children = run.children();
    assert_eq!(children.len(), 10, "{children:?}");
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    wait_until("end of all children", Duration::from_secs(5), || {
        children.iter().all(|pid| !alive(*pid)).then_some(())
    });
}

#[test]
fn a_member_without_a_coordinator_ends_at_the_first_interrupt() {
    // It takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut member = Command::new(Programs::get().path("actor"))
        .args(["--coordinator", &address])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _connection = silent.accept().unwrap();
    kill(Pid::from_raw(member.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = wait_until("its end", Duration::from_secs(10), || member.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}
