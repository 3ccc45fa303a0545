//! What a store has after steps, stops and rollbacks, and what comes back from it.

use std::fs;

use ::tests::wait_until;
use runtime::Shutdown;
use telemetry::Health;
use tokio::runtime::Runtime;

use super::super::tests::{contents, moments, names};
use super::super::writer::Checkpoints;
use super::super::{Place, STATE};
use super::*;

const LIMIT: Duration = Duration::from_secs(60);
const RUN: u64 = 3;

/// A machine with a run directory of its own, and the store that all machines share.
struct Machine {
    dir: tempfile::TempDir,
    checkpoints: Checkpoints,
    shutdown: Shutdown,
    _tasks: TaskGroup,
    _runtime: Runtime,
}

impl Machine {
    fn new(shared: &Path, keep: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let local = CheckpointStore::open(dir.path().join("checkpoints"), keep).unwrap();
        let mut settings = Settings::default();
        settings.store.url = format!("file://{}", shared.display());
        settings.store.retries_max = 0;
        let shutdown = Shutdown::new();
        let tasks = TaskGroup::new(shutdown.clone());
        let health = Health::of_progress(LIMIT);
        let checkpoints = {
            let _entered = runtime.enter();
            let store = Store::open(&settings.store).unwrap().unwrap();
            let remote = Remote::start(store, &local, &settings, health.clone(), &tasks);
            Checkpoints::start((local, Some(remote)), &settings, health, &tasks).unwrap()
        };
        Self { dir, checkpoints, shutdown, _tasks: tasks, _runtime: runtime }
    }

    fn keep(&mut self, step: u32) {
        let weights = miniature::fresh_weights(miniature::Role::Strong, u64::from(step));
        self.checkpoints.begin(contents(step, &weights, &moments())).unwrap();
        self.checkpoints.settle().unwrap();
        self.checkpoints.settle_stored();
        self.checkpoints.committed(step).unwrap();
    }

    fn here(&self) -> Vec<String> {
        names(self.checkpoints.store())
    }
}

fn stored(shared: &Path, step: u32) -> PathBuf {
    let run = format!("run-{}", run_name(RUN));
    shared.join(run).join("checkpoints").join(CheckpointStore::name(step))
}

/// Steps of whole checkpoints in the store.
fn steps(shared: &Path) -> Vec<u32> {
    (0..9).filter(|step| stored(shared, *step).join(STATE).is_file()).collect()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn whole_checkpoints_are_stored_and_old_ones_go() {
    let shared = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(shared.path(), 2);
    for step in 1..=4 {
        machine.keep(step);
        assert!(steps(shared.path()).contains(&step));
    }
    let left = || (steps(shared.path()) == [3, 4]).then_some(());
    wait_until("old checkpoints to go", LIMIT, left);
    assert!(!stored(shared.path(), 1).exists(), "nothing of it is left");
    let file = "model.safetensors";
    let here = machine.dir.path().join("checkpoints/step-000004").join(file);
    assert_eq!(fs::read(stored(shared.path(), 4).join(file)).unwrap(), fs::read(here).unwrap());
}

#[test]
fn a_store_that_fails_costs_a_copy_and_not_the_run() {
    let shared = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(shared.path(), 2);
    let run = shared.path().join(format!("run-{}", run_name(RUN)));
    fs::write(&run, "no directory").unwrap();
    machine.keep(1);
    assert_eq!(machine.here(), ["step-000001"]);
    assert_eq!(steps(shared.path()), [0_u32; 0]);
    fs::remove_file(&run).unwrap();
    machine.keep(2);
    assert_eq!(steps(shared.path()), [2]);
}

#[test]
fn what_is_undone_goes_from_the_store_too() {
    let shared = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(shared.path(), 9);
    (1..=3).for_each(|step| machine.keep(step));
    machine.checkpoints.discard_after(2, RUN).unwrap();
    assert_eq!((steps(shared.path()), machine.here().len()), (vec![1, 2], 2));
    // Another process does not know what there is, and looks.
    let mut other = Machine::new(shared.path(), 9);
    other.checkpoints.discard_after(1, RUN).unwrap();
    assert_eq!(steps(shared.path()), [1]);
}

#[test]
fn another_machine_goes_on_from_what_is_stored() {
    let shared = tempfile::tempdir().unwrap();
    let mut first = Machine::new(shared.path(), 9);
    (1..=3).for_each(|step| first.keep(step));
    let second = Machine::new(shared.path(), 9);
    let all = second.checkpoints.copies(RUN, 3).unwrap();
    assert_eq!(all, [3, 2, 1].map(|step| (step, Place::Stored)));
    assert_eq!(second.checkpoints.copies(RUN, 2).unwrap().len(), 2, "3 is ahead of the commit");
    let loaded = second.checkpoints.load(RUN, all[1]).unwrap();
    assert_eq!((loaded.state.step, second.here()), (2, vec!["step-000002".to_owned()]));
    let all = second.checkpoints.copies(RUN, 3).unwrap();
    let expected = [(3, Place::Stored), (2, Place::Here), (2, Place::Stored), (1, Place::Stored)];
    assert_eq!(all, expected);
    assert_eq!(second.checkpoints.load(RUN, all[1]).unwrap().state.step, 2);
    // Other ranks leave nothing behind.
    let third = Machine::new(shared.path(), 9);
    assert_eq!(third.checkpoints.load_beside(RUN, 3, 1).unwrap().state.step, 3);
    assert_eq!(third.here(), [""; 0]);
}

#[test]
fn a_damaged_copy_is_passed_over_and_another_runs_is_refused() {
    let shared = tempfile::tempdir().unwrap();
    let mut first = Machine::new(shared.path(), 9);
    first.keep(2);
    flip(&stored(shared.path(), 2).join("optimizer.safetensors"));
    let second = Machine::new(shared.path(), 9);
    let error = second.checkpoints.load(RUN, (2, Place::Stored)).err().unwrap();
    assert!(format!("{error:#}").contains("optimizer.safetensors at file://"), "{error:#}");
    assert!(Checkpoints::may_pass_over(&error));
    assert!(!second.checkpoints.store().has(2));
    // As if somebody had copied it.
    let other = shared.path().join(format!("run-{}", run_name(RUN + 1)));
    fs::rename(shared.path().join(format!("run-{}", run_name(RUN))), other).unwrap();
    let error = second.checkpoints.load(RUN + 1, (2, Place::Stored)).err().unwrap();
    assert!(format!("{error:#}").contains("is of another run"), "{error:#}");
    assert!(!Checkpoints::may_pass_over(&error));
}

#[test]
fn a_stop_ends_what_waits_for_the_store() {
    let shared = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(shared.path(), 9);
    let known = Arc::clone(&machine.checkpoints.remote().known);
    let _held = known.try_lock().unwrap();
    machine.shutdown.trigger("the test has seen enough");
    let error = machine.checkpoints.discard_after(1, RUN).unwrap_err();
    assert!(error.is::<Stopping>(), "{error:#}");
}

#[test]
fn of_what_is_committed_the_newest_stay() {
    let there = [(1, true), (2, false), (3, true), (4, true), (5, false), (6, true)].into();
    let cases: [(u32, usize, &[u32]); 5] =
        [(6, 2, &[3, 1, 2, 5]), (5, 2, &[1, 2]), (4, 1, &[3, 1, 2]), (3, 9, &[2]), (0, 1, &[])];
    for (committed, keep, expected) in cases {
        assert_eq!(superfluous(&there, committed, keep), expected, "{committed}, {keep}");
    }
}
