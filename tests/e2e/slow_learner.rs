//! A learner that cannot keep up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Run, admin_address, http_get, sample, samples, wait_until};

use crate::hostile::memory_mib;
use crate::reliability::steps;
use crate::{LIMIT, small};

/// It runs for a tenth of the time.
const RUNNING: Duration = Duration::from_millis(50);
const STOPPED: Duration = Duration::from_millis(450);
/// For so long, unless `TANDEM_TEST_SLOW_SECONDS` says otherwise.
const SECONDS: u64 = 20;
/// What allocators take and give back.
const WAVERING_MIB: u64 = 48;

/// Stops and starts a process in turn until it is told to end; then it runs.
fn slow_down(pid: u32, end: &AtomicBool) {
    let pid = Pid::from_raw(pid.cast_signed());
    while !end.load(Ordering::SeqCst) {
        for (signal, length) in [(Signal::SIGSTOP, STOPPED), (Signal::SIGCONT, RUNNING)] {
            kill(pid, signal).unwrap();
            let until = Instant::now() + length;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
        }
    }
}

/// What stands before the run: groups that are out, rollouts and groups that wait.
fn backlog(run: &Run) -> f64 {
    let of = |process: &str, name: &str| {
        let address = admin_address(&run.log(process)).unwrap();
        samples(&http_get(&address, "/metrics").1, name).iter().map(|(_, n)| n).sum::<f64>()
    };
    let queued = |actor: &str| of(actor, "tandem_actor_queued");
    of("coordinator", "tandem_coordinator_leases_open") + queued("actor-0") + queued("actor-1")
}

#[test]
fn row_22_a_learner_ten_times_as_slow_holds_the_others_back() {
    let seconds = std::env::var("TANDEM_TEST_SLOW_SECONDS").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let endless = ["--steps", "100000", "--set", "eval.enabled=false"];
    let mut run = Run::start(&small(&endless));
    run.wait_for_steps(2, LIMIT);
    let (learner, end) = (run.child("learner-0").unwrap(), AtomicBool::new(false));
    let (mut memory, mut most) = (Vec::new(), 0.0);
    std::thread::scope(|scope| {
        scope.spawn(|| slow_down(learner, &end));
        let started = Instant::now();
        while started.elapsed() < length {
            let next = run.steps() + 1;
            run.wait_for_steps(next, LIMIT);
            memory.push(memory_mib(&run));
            most = f64::max(most, backlog(&run));
        }
        end.store(true, Ordering::SeqCst);
    });
    let address = admin_address(&run.log("learner-0")).unwrap();
    let metrics = wait_until("the learner's metrics", LIMIT, || {
        Some(http_get(&address, "/metrics").1).filter(|text| text.contains("staleness"))
    });
    // `staleness.max_versions` is 1 by default.
    let name = "tandem_learner_staleness_versions";
    let fresh = samples(&metrics, &format!("{name}_bucket"));
    let fresh: f64 = fresh.iter().filter(|(at, _)| at.contains("le=\"1\"")).map(|(_, n)| n).sum();
    assert_eq!(fresh, sample(&metrics, &format!("{name}_count")), "{metrics}");
    // Two steps of groups, and what actors have of them in their queues.
    assert!(most <= 3.0 * 16.0, "{most} entries stood before the learner");
    let (first, last) = (memory[memory.len() / 3], memory[memory.len() - 1]);
    println!("{} steps, backlog at most {most}, memory {first} then {last} MiB", memory.len());
    assert!(last <= first + WAVERING_MIB, "{memory:?}");

    run.signal(Signal::SIGTERM);
    run.wait(LIMIT).expect_code(143);
    let found = steps(&run);
    assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "no gap, nothing twice");
}
