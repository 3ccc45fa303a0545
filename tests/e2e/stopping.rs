//! Ctrl-C, and the death of the coordinator.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Run, alive, wait_until};

use crate::{LIMIT, small};

#[test]
fn an_interrupt_in_the_middle_leaves_a_run_that_eval_reads() {
    let mut run = Run::start(&small(&["--steps", "500", "--set", "eval.enabled=false"]));
    run.wait_for_steps(3, LIMIT);
    let children = run.children();
    assert!(children.len() >= 4, "{children:?}");
    run.signal(Signal::SIGINT);
    let ended = run.wait(Duration::from_secs(10));
    ended.expect_code(130);
    assert!(children.iter().all(|pid| !alive(*pid)));
    assert!(ended.stderr.contains("step-0") || ended.stdout.contains("step-0"), "{ended:?}");

    let evaluated = run.then(&["eval", "{dir}", "--limit", "4"], LIMIT);
    evaluated.expect_code(0);
}

#[test]
fn no_child_outlives_a_killed_coordinator() {
    let mut run = Run::start(&small(&["--steps", "500", "--set", "eval.enabled=false"]));
    run.wait_for_steps(1, LIMIT);
    let children = run.children();
    assert!(children.len() >= 4, "{children:?}");
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    wait_until("end of all children", Duration::from_secs(5), || {
        children.iter().all(|pid| !alive(*pid)).then_some(())
    });
}
