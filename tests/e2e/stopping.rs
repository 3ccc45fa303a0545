//! Ctrl-C, and the death of the coordinator.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Programs, Run, admin_address, alive, http_get, samples, wait_until};

use crate::{LIMIT, small_with};

/// `shutdown.grace_seconds` as it is set by default.
const GRACE: Duration = Duration::from_secs(10);

fn stopped_in_training(actors: &str, learners: &str, (signal, code): (Signal, i32)) {
    let endless = ["--steps", "500", "--set", "eval.enabled=false", "--learners", learners];
    let mut run = Run::start(&small_with(actors, &endless));
    run.wait_for_steps(3, LIMIT);
    let children = run.children();
    let members = [actors, learners].map(|count| count.parse::<usize>().unwrap());
    assert_eq!(children.len(), 1 + members.iter().sum::<usize>(), "{children:?}");
    run.signal(signal);
    let ended = run.wait(GRACE);
    ended.expect_code(code);
    assert!(children.iter().all(|pid| !alive(*pid)));
    assert!(ended.stderr.contains("step-0") || ended.stdout.contains("step-0"), "{ended:?}");

    let evaluated = run.then(&["eval", "{dir}", "--limit", "4"], LIMIT);
    evaluated.expect_code(0);
}

#[test]
fn row_24_an_interrupt_in_the_middle_leaves_a_run_that_eval_reads() {
    stopped_in_training("2", "1", (Signal::SIGINT, 130));
    stopped_in_training("8", "1", (Signal::SIGINT, 130));
    stopped_in_training("2", "2", (Signal::SIGTERM, 143));
}

#[test]
fn row_24_a_second_interrupt_ends_the_run_at_once() {
    let endless = ["--steps", "500", "--set", "eval.enabled=false"];
    let mut run = Run::start(&small_with("2", &endless));
    run.wait_for_steps(1, LIMIT);
    let stuck = run.child("actor-0").unwrap();
    run.signal_child("actor-0", Signal::SIGSTOP);
    run.signal(Signal::SIGINT);
    wait_until("all but the stuck one", LIMIT, || (run.children() == [stuck]).then_some(()));
    run.signal(Signal::SIGINT);
    let ended = run.wait(GRACE / 4);
    ended.expect_code(130);
    let pid = Pid::from_raw(stuck.cast_signed());
    // Whether it was killed with its parent or ends when it goes on, it does not stay.
    let _ = kill(pid, Signal::SIGCONT);
    wait_until("its end", GRACE, || (!alive(stuck)).then_some(()));
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
