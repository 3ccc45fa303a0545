//! Whole small runs over several generations, against a coordinator that records.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::tests::{die_at, run_alone, say, task};
use candle_core::Device;
use proto::{Directive, Rank, ReceiptCode, StepRecord};
use runtime::{Shutdown, TaskGroup};
use security::Guard;
use settings::Settings;
use telemetry::{Health, Readiness};
use tokio::sync::{mpsc, watch};
use types::{Generation, Hash, WeightManifest};

use super::*;
use crate::checkpoint::{CheckpointStore, Checkpoints, Remote};
use crate::fixtures::Miniature;
use crate::inbox::Inbox;
use crate::publisher::Outlet;
use crate::rank_watch::RankWatch;
use crate::rollout_log::RolloutLog;
use crate::train_loop::RunFiles;

const LIMIT: Duration = Duration::from_secs(120);
const RUN: u64 = 7;

/// What reached the coordinator.
#[derive(Default)]
struct Seen {
    published: Vec<(PolicyVersion, Hash)>,
    committed: Vec<StepRecord>,
    reformed: Vec<Generation>,
}

type OnPublish = Box<dyn FnMut(PolicyVersion) + Send>;

struct Recorder {
    seen: Arc<Mutex<Seen>>,
    on_publish: OnPublish,
}

impl Outlet for Recorder {
    fn publish(&mut self, manifest: &WeightManifest, _: &[u8]) -> anyhow::Result<()> {
        self.seen.lock().unwrap().published.push((manifest.version, manifest.hash));
        (self.on_publish)(manifest.version);
        Ok(())
    }

    fn commit(&mut self, record: &StepRecord) -> anyhow::Result<()> {
        say(&record.step.to_string());
        self.seen.lock().unwrap().committed.push(record.clone());
        Ok(())
    }

    fn reform(&mut self, generation: Generation, _: &str) -> anyhow::Result<()> {
        self.seen.lock().unwrap().reformed.push(generation);
        Ok(())
    }
}

/// A coordinator's side of a run, and the inboxes of the ranks that are there.
struct Bench {
    world: Arc<Miniature>,
    root: tempfile::TempDir,
    dir: PathBuf,
    runtime: tokio::runtime::Runtime,
    seen: Arc<Mutex<Seen>>,
    directives: watch::Sender<Directive>,
    inboxes: Arc<Mutex<Vec<Inbox>>>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let world = Arc::new(Miniature::with(change));
        let (directives, _) = watch::channel(Directive::default());
        let root = tempfile::tempdir().unwrap();
        Self {
            dir: root.path().to_owned(),
            root,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_time()
                .build()
                .unwrap(),
            seen: Arc::default(),
            inboxes: Arc::default(),
            directives,
            world,
        }
    }

    fn form(&self, generation: u32, committed: u32, ring: &[String]) {
        let rank = |ring: &String| Rank { address: String::new(), ring_address: ring.clone() };
        let formation = Formation {
            generation: Generation(generation),
            committed,
            run: RUN,
            ranks: ring.iter().map(rank).collect(),
        };
        let formation = Some(formation);
        self.directives.send_replace(Directive { formation, ..Directive::default() });
    }

    /// A process in the place of this rank; `on_publish` is rank 0's.
    fn process(&self, rank: u32, shutdown: &Shutdown, on_publish: OnPublish) -> Generations {
        let (world, dir) = (&self.world, &self.dir);
        let (returns, _) = mpsc::channel(64);
        let inbox = Inbox::new(world.admission(), None, returns);
        let mut inboxes = self.inboxes.lock().unwrap();
        match inboxes.get_mut(rank as usize) {
            Some(place) => *place = inbox.clone(),
            None => inboxes.push(inbox.clone()),
        }
        let tokenizer = world.files.tokenizer.clone();
        let health = Health::of_progress(LIMIT);
        let open = if rank == 0 { CheckpointStore::open } else { CheckpointStore::beside };
        let store = open(dir.join("checkpoints"), 9).unwrap();
        let (settings, tasks) = (&world.settings, TaskGroup::new(shutdown.clone()));
        let _entered = self.runtime.enter();
        let remote = store::Store::open(&settings.store).unwrap();
        let remote =
            remote.map(|remote| Remote::start(remote, &store, settings, health.clone(), &tasks));
        let files = (store, remote);
        let train = TrainLoop {
            source: Source::Groups(inbox),
            outlet: Box::new(Recorder { seen: Arc::clone(&self.seen), on_publish }),
            settings: Arc::clone(&world.settings),
            files: RunFiles {
                checkpoints: Checkpoints::start(files, settings, health.clone(), &tasks).unwrap(),
                rollouts: RolloutLog::open(dir.join("rollouts"), tokenizer, 0).unwrap(),
                texts: Arc::new(world.files.texts().unwrap()),
            },
            version: PolicyVersion::default(),
            run: 0,
            ranks: RankWatch::new(self.directives.subscribe()),
            runtime: self.runtime.handle().clone(),
            shutdown: shutdown.clone(),
            readiness: Readiness::new(&["published"]),
            health,
        };
        let files = world.files.clone();
        Generations {
            seat: Seat::new(&world.settings, rank, Device::Cpu, &Guard::default()).unwrap(),
            train,
            start: Some(files.clone()),
            reload: Box::new(move || Ok(files.clone())),
            stops: world.task.stops().to_vec(),
            hand: None,
        }
    }

    /// Actors that write each step's groups as soon as its weights are out, until a rank takes them.
    fn actors(&self) -> OnPublish {
        let (world, inboxes) = (Arc::clone(&self.world), Arc::clone(&self.inboxes));
        Box::new(move |version: PolicyVersion| {
            let groups = world.settings.groups_per_step();
            if version.step == world.settings.train.steps {
                return;
            }
            let waiting = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let first = u64::from(version.step) * groups;
            for id in first..first + groups {
                let group = world.group(id, 0);
                tests_wait(|| {
                    let inbox = {
                        let inboxes = inboxes.lock().unwrap();
                        inboxes[(id as usize) % inboxes.len()].clone()
                    };
                    waiting.block_on(inbox.receive(group.clone())).code == ReceiptCode::Accepted
                });
            }
        })
    }

    /// One process alone, from one formation to its end.
    fn alone(&self, generation: u32, committed: u32) -> anyhow::Result<()> {
        self.form(generation, committed, &[String::new()]);
        self.process(0, &Shutdown::new(), self.actors()).run()
    }

    fn versions(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.published.iter().map(|(version, _)| version.to_string()).collect()
    }

    fn hash_of(&self, version: PolicyVersion) -> Hash {
        let seen = self.seen.lock().unwrap();
        seen.published.iter().find(|(of, _)| *of == version).expect("it was published").1
    }

    fn committed(&self) -> Vec<u32> {
        self.seen.lock().unwrap().committed.iter().map(|record| record.step).collect()
    }
}

fn tests_wait(done: impl Fn() -> bool) {
    let until = std::time::Instant::now() + LIMIT;
    while !done() {
        assert!(std::time::Instant::now() < until, "it does not happen");
        std::thread::yield_now();
    }
}

/// Rollouts of old weights count, so that every generation can train on the same ones, and the
/// learning rate does not depend on how many steps there are.
fn steps(settings: &mut Settings, steps: u32) {
    settings.train.steps = steps;
    settings.train.decay = settings::Decay::Constant;
    settings.staleness.max_versions = 9;
    settings.checkpoint.every_steps = 1;
}

/// A directory with checkpoints of steps 1 to 3, all committed.
fn left_behind() -> Bench {
    let bench = Bench::new(|s| steps(s, 3));
    bench.alone(1, 0).unwrap();
    assert_eq!(bench.versions(), ["g1s0", "g1s1", "g1s2", "g1s3"]);
    Bench { seen: Arc::default(), inboxes: Arc::default(), ..bench }
}

fn with_settings(bench: Bench, change: impl FnOnce(&mut Settings)) -> Bench {
    let mut fresh = Bench::new(|s| {
        steps(s, 5);
        change(s);
    });
    (fresh.root, fresh.dir) = (bench.root, bench.dir);
    fresh
}

#[test]
fn row_3_a_run_that_was_killed_goes_on_to_the_same_weights() {
    let whole = Bench::new(|s| steps(s, 5));
    whole.alone(1, 0).unwrap();
    let bench = with_settings(left_behind(), |_| ());
    bench.alone(2, 3).unwrap();
    assert_eq!(bench.versions(), ["g2s3", "g2s4", "g2s5"]);
    for step in 3..=5 {
        let (old, new) = (PolicyVersion::new(1, step), PolicyVersion::new(2, step));
        assert_eq!(whole.hash_of(old), bench.hash_of(new), "bitwise, after step {step}");
    }
    let losses = |bench: &Bench| -> Vec<f64> {
        bench.seen.lock().unwrap().committed.iter().map(|r| r.values["loss"]).collect()
    };
    assert_eq!(losses(&whole)[3..], losses(&bench)[..]);
}

/// A run in the directory that its task names, until the writing of its second checkpoint.
#[test]
#[ignore = "row 4 runs it as a process of its own"]
fn trains_until_it_is_killed() {
    let Some(task) = task() else { return };
    let (point, dir) = task.split_once(' ').unwrap();
    die_at(point, 2);
    Bench { dir: dir.into(), ..Bench::new(|s| steps(s, 5)) }.alone(1, 0).unwrap();
}

#[test]
fn row_4_a_run_killed_while_it_writes_a_checkpoint_goes_on_to_the_same_weights() {
    let whole = Bench::new(|s| steps(s, 5));
    whole.alone(1, 0).unwrap();
    for point in ["checkpoint::weights_written", "checkpoint::synced", "checkpoint::renamed"] {
        let bench = Bench::new(|s| steps(s, 5));
        let task = format!("{point} {}", bench.dir.display());
        let child = run_alone("generations::tests::trains_until_it_is_killed", &task);
        assert!(child.was_killed(), "{point}: {}", child.output);
        let committed: u32 = child.said.last().unwrap().parse().unwrap();
        bench.alone(2, committed).unwrap();
        let from = bench.seen.lock().unwrap().published[0].0.step;
        assert!((1..=committed).contains(&from), "{point}: {from} of {committed}");
        let (old, new) = (PolicyVersion::new(1, 5), PolicyVersion::new(2, 5));
        assert_eq!(whole.hash_of(old), bench.hash_of(new), "bitwise, {point}");
    }
}

#[test]
fn what_is_ahead_of_the_last_commit_was_never_done() {
    let bench = with_settings(left_behind(), |_| ());
    bench.alone(2, 2).unwrap();
    assert_eq!(bench.versions(), ["g2s2", "g2s3", "g2s4", "g2s5"]);
    assert_eq!(bench.committed(), [3, 4, 5]);
}

fn damage(bench: &Bench, step: u32) {
    let name = format!("checkpoints/{}/optimizer.safetensors", CheckpointStore::name(step));
    let path = bench.dir.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_no_good_one_is_an_error() {
    let bench = with_settings(left_behind(), |_| ());
    damage(&bench, 3);
    bench.alone(2, 3).unwrap();
    assert_eq!(bench.versions()[0], "g2s2");
    let bench = with_settings(left_behind(), |_| ());
    (1..=3).for_each(|step| damage(&bench, step));
    let error = format!("{:#}", bench.alone(2, 3).unwrap_err());
    assert!(error.contains("no checkpoint of this run is good: "), "{error}");
    assert!(error.contains("step-000001") && error.contains("delete them to begin"), "{error}");
}

#[test]
fn only_its_own_checkpoints_are_gone_on_from_and_only_with_the_same_settings() {
    let refused = |bench: Bench, committed| format!("{:#}", bench.alone(2, committed).unwrap_err());
    let other_seed = refused(with_settings(left_behind(), |s| s.seed = 12), 3);
    assert!(other_seed.contains("seed is 12 but the checkpoint was made with 11"), "{other_seed}");
    let state = |bench: &Bench, step| {
        bench.dir.join(format!("checkpoints/{}/state.json", CheckpointStore::name(step)))
    };
    for (committed, step) in [(3, 3), (0, 1)] {
        let bench = with_settings(left_behind(), |_| ());
        let text = std::fs::read_to_string(state(&bench, step)).unwrap();
        let mut other: serde_json::Value = serde_json::from_str(&text).unwrap();
        other["run"] = "0000000000000008".into();
        // Files of before had no hash of their own.
        other.as_object_mut().unwrap().remove("own_hash");
        std::fs::write(state(&bench, step), other.to_string()).unwrap();
        let text = refused(bench, committed);
        assert!(text.contains(&format!("step-00000{step} is of another run")), "{text}");
    }
}

#[test]
fn a_run_without_a_checkpoint_begins_from_its_start() {
    let bench = Bench::new(|s| steps(s, 2));
    bench.alone(4, 1).unwrap();
    assert_eq!(bench.versions(), ["g4s0", "g4s1", "g4s2"]);
}

/// Two ranks from start to end.
fn two_ranks() -> Bench {
    let bench = Bench::new(|s| steps(s, 4));
    let shutdown = Shutdown::new();
    let first = bench.process(0, &shutdown, bench.actors());
    let second = bench.process(1, &shutdown, Box::new(|_| ()));
    bench.form(1, 0, &[first.seat.address().unwrap(), second.seat.address().unwrap()]);
    std::thread::scope(|scope| {
        let ranks = [scope.spawn(|| first.run()), scope.spawn(|| second.run())];
        for rank in ranks {
            rank.join().unwrap().unwrap();
        }
    });
    bench
}

/// Two ranks; when rank 0 has published step 2 in the first generation, `who` dies and another
/// process takes its place.
fn a_rank_dies(who: u32) -> Bench {
    let bench = Bench::new(|s| {
        steps(s, 4);
        s.checkpoint.every_steps = 0;
    });
    let (dies, stays) = (Shutdown::new(), Shutdown::new());
    let mut actors = bench.actors();
    let (reached, dead) = (Arc::new(Mutex::new(false)), dies.clone());
    let flag = Arc::clone(&reached);
    let until_second: OnPublish = Box::new(move |version| {
        if version == PolicyVersion::new(1, 2) {
            dead.trigger("killed by the test");
            *flag.lock().unwrap() = true;
        } else {
            actors(version);
        }
    });
    let shutdown_of = |rank| if rank == who { dies.clone() } else { stays.clone() };
    let first = bench.process(0, &shutdown_of(0), until_second);
    let second = bench.process(1, &shutdown_of(1), Box::new(|_| ()));
    let mut ring = [first.seat.address().unwrap(), second.seat.address().unwrap()];
    bench.form(1, 0, &ring);
    std::thread::scope(|scope| {
        let ranks = [scope.spawn(|| first.run()), scope.spawn(|| second.run())];
        tests_wait(|| *reached.lock().unwrap());
        // Its port is gone with it.
        let [first, second] = ranks;
        let (gone, left) = if who == 0 { (first, second) } else { (second, first) };
        gone.join().unwrap().unwrap();
        let again = bench.process(who, &stays, bench.actors());
        ring[who as usize] = again.seat.address().unwrap();
        let committed = bench.committed().last().copied().unwrap_or_default();
        bench.form(2, committed, &ring);
        again.run().unwrap();
        left.join().unwrap().unwrap();
    });
    bench
}

#[test]
fn a_rank_that_comes_anew_gets_the_state_of_the_other_and_no_step_is_lost() {
    let whole = two_ranks();
    for who in [0, 1] {
        let bench = a_rank_dies(who);
        let committed = bench.committed();
        assert_eq!(committed, [1, 2, 3, 4], "rank {who} died");
        let versions = bench.versions();
        assert!(versions.contains(&"g2s2".to_owned()), "{versions:?}");
        let (old, new) = (PolicyVersion::new(1, 4), PolicyVersion::new(2, 4));
        assert_eq!(whole.hash_of(old), bench.hash_of(new), "bitwise, rank {who} died");
    }
}

#[test]
fn a_learner_on_another_machine_goes_on_from_the_store_to_the_same_weights() {
    let shared = tempfile::tempdir().unwrap();
    let url = format!("file://{}", shared.path().display());
    let machine = |of| {
        Bench::new(|s| {
            steps(s, of);
            s.store.url = url.clone();
        })
    };
    machine(3).alone(1, 0).unwrap();
    let whole = Bench::new(|s| steps(s, 5));
    whole.alone(1, 0).unwrap();
    let other = machine(5);
    other.alone(2, 3).unwrap();
    assert_eq!(other.versions(), ["g2s3", "g2s4", "g2s5"]);
    let (old, new) = (PolicyVersion::new(1, 5), PolicyVersion::new(2, 5));
    assert_eq!(whole.hash_of(old), other.hash_of(new), "bitwise");
    assert!(other.dir.join("checkpoints/step-000003/state.json").is_file(), "it came to stay");
}
