//! Whole small runs against a recording coordinator.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::tests::{run_alone, say, task, wait_until};
use proto::{Directive, Formation, Rank, ReceiptCode};
use runtime::TaskGroup;
use settings::Objective;
use tokio::sync::{mpsc, watch};
use types::{Generation, Hash, WeightManifest};

use super::*;
use crate::checkpoint::{CheckpointStore, Contents, load_checkpoint};
use crate::collective::Solo;
use crate::examples::example;
use crate::fixtures::{Miniature, with_parts};

const LIMIT: Duration = Duration::from_secs(60);
const RUN: u64 = 7;

fn directive(generation: Option<u32>) -> Directive {
    let formation = generation.map(|generation| Formation {
        generation: Generation(generation),
        committed: 0,
        run: RUN,
        ranks: vec![Rank { address: String::new(), ring_address: String::new() }],
    });
    Directive { formation, ..Directive::default() }
}

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
    /// Up to this step.
    takes_commits: u32,
}

impl Outlet for Recorder {
    fn publish(&mut self, manifest: &WeightManifest, bytes: &[u8]) -> anyhow::Result<()> {
        assert_eq!((manifest.hash, manifest.bytes), (Hash::of(bytes), bytes.len() as u64));
        self.seen.lock().unwrap().published.push((manifest.version, manifest.hash));
        (self.on_publish)(manifest.version);
        Ok(())
    }

    fn reform(&mut self, generation: Generation, _: &str) -> anyhow::Result<()> {
        self.seen.lock().unwrap().reformed.push(generation);
        Ok(())
    }

    fn commit(&mut self, record: &StepRecord) -> anyhow::Result<()> {
        ensure!(record.step <= self.takes_commits, "the coordinator is gone");
        self.seen.lock().unwrap().committed.push(record.clone());
        Ok(())
    }
}

/// A run directory, an async runtime, and the parts of one training loop.
struct Bench {
    world: Arc<Miniature>,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    seen: Arc<Mutex<Seen>>,
    shutdown: Shutdown,
    tasks: TaskGroup,
    health: Health,
    takes_commits: u32,
}

impl Bench {
    fn new(world: Miniature) -> Self {
        let shutdown = Shutdown::new();
        Self {
            world: Arc::new(world),
            dir: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            seen: Arc::default(),
            tasks: TaskGroup::new(shutdown.clone()),
            shutdown,
            health: Health::of_progress(LIMIT),
            takes_commits: u32::MAX,
        }
    }

    fn inbox(&self) -> Inbox {
        let (returns, _) = mpsc::channel(64);
        let inbox = Inbox::new(self.world.admission(), None, returns);
        inbox.begin(Miniature::version(0), self.world.window());
        inbox
    }

    /// The first generation, present as long as the sender says so.
    fn ranks(&self) -> (watch::Sender<Directive>, RankWatch) {
        let (sender, receiver) = watch::channel(directive(Some(1)));
        let mut ranks = RankWatch::new(receiver);
        self.runtime.block_on(ranks.next(&self.shutdown, &self.health)).unwrap();
        (sender, ranks)
    }

    fn run(&self, source: Source, on_publish: OnPublish) {
        self.outcome(source, on_publish).unwrap();
    }

    fn outcome(&self, source: Source, on_publish: OnPublish) -> anyhow::Result<Ended> {
        let (_present, ranks) = self.ranks();
        let solo = Box::new(Solo::new(Generation(1)));
        let world = &self.world;
        let mut trainer =
            Trainer::new(&world.settings, world.files.clone(), world.task.stops(), solo).unwrap();
        self.train_loop(source, on_publish, ranks).run(&mut trainer)
    }

    fn train_loop(&self, source: Source, on_publish: OnPublish, ranks: RankWatch) -> TrainLoop {
        let world = &self.world;
        let (dir, tokenizer) = (self.dir.path(), world.files.tokenizer.clone());
        let store = CheckpointStore::open(dir.join("checkpoints"), 3).unwrap();
        let (settings, health) = (&world.settings, self.health.clone());
        let files = RunFiles {
            checkpoints: Checkpoints::start((store, None), settings, health, &self.tasks).unwrap(),
            rollouts: RolloutLog::open(dir.join("rollouts"), tokenizer, 8).unwrap(),
            texts: Arc::new(world.files.texts().unwrap()),
        };
        TrainLoop {
            source,
            outlet: Box::new(Recorder {
                seen: Arc::clone(&self.seen),
                on_publish,
                takes_commits: self.takes_commits,
            }),
            settings: Arc::clone(&world.settings),
            files,
            version: PolicyVersion::new(1, 0),
            run: RUN,
            ranks,
            runtime: self.runtime.handle().clone(),
            shutdown: self.shutdown.clone(),
            readiness: Readiness::new(&["published"]),
            health: self.health.clone(),
        }
    }

    /// An actor that writes each step's groups as soon as its weights are out.
    fn actor(&self, inbox: &Inbox, change: fn(RolloutGroup) -> RolloutGroup) -> OnPublish {
        let (world, inbox) = (Arc::clone(&self.world), inbox.clone());
        Box::new(move |version: PolicyVersion| {
            let groups = world.settings.groups_per_step();
            let waiting = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for id in u64::from(version.step) * groups..(u64::from(version.step) + 1) * groups {
                let group = change(world.group(id, version.step));
                let receipt = waiting.block_on(inbox.receive(group));
                assert_eq!(receipt.code, ReceiptCode::Accepted, "{}", receipt.reason);
            }
        })
    }

    fn files(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn as_is(group: RolloutGroup) -> RolloutGroup {
    group
}

fn all_correct(mut group: RolloutGroup) -> RolloutGroup {
    for sample in 0..group.samples.len() {
        group = with_parts(group, sample, |parts| parts.verdict.reward = 1.0);
    }
    group
}

#[test]
fn a_run_publishes_every_version_and_commits_every_step() {
    let bench = Bench::new(Miniature::with(|s| s.checkpoint.every_steps = 2));
    let inbox = bench.inbox();
    bench.run(Source::Groups(inbox.clone()), bench.actor(&inbox, as_is));
    let seen = bench.seen.lock().unwrap();
    let versions: Vec<String> = seen.published.iter().map(|(v, _)| v.to_string()).collect();
    assert_eq!(versions, ["g1s0", "g1s1", "g1s2", "g1s3"]);
    assert!(seen.published.windows(2).all(|pair| pair[0].1 != pair[1].1));
    let steps: Vec<u32> = seen.committed.iter().map(|record| record.step).collect();
    assert_eq!(steps, [1, 2, 3]);
    for record in &seen.committed {
        assert_eq!((record.groups_trained, record.groups_zero_variance), (2, 0));
        assert!(record.strong_tokens > record.weak_tokens && record.weak_tokens > 0);
        assert_eq!(record.version.step, record.step);
        let names = ["loss", "reward_mean", "jargon_rate", "weak_token_share", "grad_norm", "kl"];
        let more = ["learning_rate", "mismatch_kl", "log_ratio_abs_max", "seconds_wait", "tokens"];
        for name in names.iter().chain(&more) {
            assert!(record.values[*name].is_finite(), "{name}");
        }
        assert_eq!((record.values["reward_mean"], record.values["live_groups"]), (0.5, 2.0));
    }
    let named = |step: usize| seen.committed[step - 1].checkpoint.as_deref();
    assert_eq!((named(1), named(3)), (None, Some("step-000003")), "the last one is waited for");
    assert!([None, Some("step-000002")].contains(&named(2)), "it may be whole by then");
    assert_eq!(bench.files("checkpoints"), ["step-000002", "step-000003"]);
    let rollouts = ["step-000001.jsonl", "step-000002.jsonl", "step-000003.jsonl"];
    assert_eq!(bench.files("rollouts"), rollouts);
    let last = load_checkpoint(&bench.dir.path().join("checkpoints/step-000003")).unwrap();
    assert_eq!((last.state.groups_consumed, last.state.optimizer_updates), (6, 3));
    let bytes = model::to_safetensors(&last.files.tensors).unwrap();
    assert_eq!(Hash::of(&bytes), seen.published[3].1, "what was published is what is kept");
}

/// What each commit names while the checkpoints of steps 2 and 4 take until steps 3 and 4 are
/// committed; step 5 is the last.
#[test]
#[ignore = "a test of its own process"]
fn names_checkpoints_of_a_slow_disk() {
    if task().is_none() {
        return;
    }
    let world = Miniature::with(|s| (s.checkpoint.every_steps, s.train.steps) = (2, 5));
    let bench = Bench::new(world);
    let (seen, writes) = (Arc::clone(&bench.seen), AtomicUsize::new(0));
    let slow = move || {
        let until = [3, 4, 0][writes.fetch_add(1, Ordering::SeqCst)];
        let committed = || seen.lock().unwrap().committed.len();
        wait_until("the commits beside it", LIMIT, || (committed() >= until).then_some(()));
    };
    fail::cfg_callback("checkpoint::begun", slow).unwrap();
    let inbox = bench.inbox();
    bench.run(Source::Groups(inbox.clone()), bench.actor(&inbox, as_is));
    for record in &bench.seen.lock().unwrap().committed {
        say(&format!("{} {}", record.step, record.checkpoint.as_deref().unwrap_or("none")));
    }
}

#[test]
fn steps_go_on_while_a_checkpoint_is_written_and_the_commit_after_it_names_it() {
    let test = "train_loop::tests::names_checkpoints_of_a_slow_disk";
    let child = run_alone(test, "a slow disk");
    assert!(child.status.success(), "{}", child.output);
    let expected = ["1 none", "2 none", "3 none", "4 step-000002", "5 step-000005"];
    assert_eq!(child.said, expected, "{}", child.output);
}

/// An evaluation ranks checkpoints: that of its step is whole when the step is committed.
#[test]
fn a_step_that_is_evaluated_waits_for_its_checkpoint() {
    let bench = Bench::new(Miniature::with(|s| {
        (s.train.steps, s.checkpoint.every_steps, s.eval.every_steps) = (5, 1, 2);
    }));
    let inbox = bench.inbox();
    bench.run(Source::Groups(inbox.clone()), bench.actor(&inbox, as_is));
    let seen = bench.seen.lock().unwrap();
    for step in [2, 4, 5] {
        let name = CheckpointStore::name(step);
        assert_eq!(seen.committed[step as usize - 1].checkpoint, Some(name));
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_fails_the_run() {
    let bench = Bench::new(Miniature::with(|s| s.checkpoint.every_steps = 1));
    let inbox = bench.inbox();
    let mut actor = bench.actor(&inbox, as_is);
    let file = bench.dir.path().join("checkpoints/.unfinished-step-000001");
    let blocked: OnPublish = Box::new(move |version| {
        if version.step == 0 {
            std::fs::write(&file, "no directory").unwrap();
        }
        actor(version);
    });
    let error = format!("{:#}", bench.outcome(Source::Groups(inbox), blocked).unwrap_err());
    assert!(error.contains("cannot write checkpoint"), "{error}");
    assert!(bench.seen.lock().unwrap().committed.len() <= 2, "the next checkpoint waits for it");
    let failed = bench.runtime.block_on(bench.tasks.join(LIMIT)).unwrap_err();
    assert!(format!("{failed:#}").contains("task checkpoints failed"), "{failed:#}");
}

#[test]
fn steps_without_live_groups_commit_and_publish_unchanged_weights() {
    let bench = Bench::new(Miniature::small());
    let inbox = bench.inbox();
    bench.run(Source::Groups(inbox.clone()), bench.actor(&inbox, all_correct));
    let seen = bench.seen.lock().unwrap();
    assert_eq!(seen.published.len(), 4);
    assert!(seen.published.iter().all(|(_, hash)| *hash == seen.published[0].1));
    for record in &seen.committed {
        assert_eq!((record.groups_trained, record.groups_zero_variance), (0, 2));
        assert_eq!((record.values["live_groups"], record.values["tokens"]), (0.0, 0.0));
    }
}

#[test]
fn a_stop_keeps_the_last_committed_version() {
    let bench = Bench::new(Miniature::small());
    let inbox = bench.inbox();
    let mut actor = bench.actor(&inbox, as_is);
    let shutdown = bench.shutdown.clone();
    let until_first: OnPublish = Box::new(move |version| match version.step {
        0 => actor(version),
        _ => shutdown.trigger("the test has seen enough"),
    });
    bench.run(Source::Groups(inbox), until_first);
    let seen = bench.seen.lock().unwrap();
    assert_eq!((seen.published.len(), seen.committed.len()), (2, 1));
    assert_eq!(bench.files("checkpoints"), ["step-000001"]);
    let kept = load_checkpoint(&bench.dir.path().join("checkpoints/step-000001")).unwrap();
    let bytes = model::to_safetensors(&kept.files.tensors).unwrap();
    assert_eq!(Hash::of(&bytes), seen.published[1].1);
}

#[test]
fn a_run_without_steps_leaves_its_start() {
    let bench = Bench::new(Miniature::with(|s| s.train.steps = 0));
    let inbox = bench.inbox();
    bench.run(Source::Groups(inbox), Box::new(|_| ()));
    assert_eq!(bench.files("checkpoints"), ["step-000000"]);
}

#[test]
fn a_stop_before_the_first_commit_still_leaves_a_checkpoint() {
    let bench = Bench { takes_commits: 0, ..Bench::new(Miniature::small()) };
    let inbox = bench.inbox();
    let mut actor = bench.actor(&inbox, as_is);
    let shutdown = bench.shutdown.clone();
    let until_first: OnPublish = Box::new(move |version| match version.step {
        0 => actor(version),
        _ => shutdown.trigger("the test has seen enough"),
    });
    bench.run(Source::Groups(inbox), until_first);
    assert!(bench.seen.lock().unwrap().committed.is_empty());
    assert_eq!(bench.files("checkpoints"), ["step-000001"]);
}

/// Steps 1 and 2 are committed, step 3 is not; a checkpoint every `every` steps.
fn left_after_a_lost_commit(every: u32, stops: bool) -> (anyhow::Result<Ended>, Vec<String>) {
    let world = Miniature::with(|s| (s.checkpoint.every_steps, s.train.steps) = (every, 4));
    let bench = Bench { takes_commits: 2, ..Bench::new(world) };
    let inbox = bench.inbox();
    let mut actor = bench.actor(&inbox, as_is);
    let shutdown = bench.shutdown.clone();
    let until_third: OnPublish = Box::new(move |version| {
        actor(version);
        if stops && version.step == 3 {
            shutdown.trigger("the test has seen enough");
        }
    });
    let outcome = bench.outcome(Source::Groups(inbox), until_third);
    assert_eq!(bench.seen.lock().unwrap().committed.len(), 2);
    (outcome, bench.files("checkpoints"))
}

#[test]
fn no_committed_step_is_lost_with_its_coordinator() {
    let (outcome, left) = left_after_a_lost_commit(1, true);
    outcome.unwrap();
    assert_eq!(left, ["step-000001", "step-000002", "step-000003"]);
    let (outcome, left) = left_after_a_lost_commit(2, true);
    outcome.unwrap();
    assert_eq!(left, ["step-000002"], "the last committed step is there");
    let (_, left) = left_after_a_lost_commit(0, true);
    assert_eq!(left, ["step-000003"]);
    // Without a stop the loss is an error, and the weights are kept all the same.
    let (outcome, left) = left_after_a_lost_commit(0, false);
    assert!(outcome.unwrap_err().to_string().contains("the coordinator is gone"));
    assert_eq!(left, ["step-000003"]);
}

#[test]
fn a_checkpoint_older_than_the_last_committed_step_is_not_enough() {
    // The checkpoint of step 1 is there, step 2 is committed, step 3 is in hand.
    let world = Miniature::with(|s| (s.checkpoint.every_steps, s.train.steps) = (0, 4));
    let bench = Bench { takes_commits: 2, ..Bench::new(world) };
    let at = CheckpointStore::open(bench.dir.path().join("checkpoints"), 3).unwrap();
    let world = &bench.world;
    let none = grpo::Parameters::new(std::collections::BTreeMap::new()).unwrap();
    let none = grpo::AdamW::new(none, grpo::AdamWSettings::default()).unwrap();
    let contents = Contents {
        state: State::new(RUN, PolicyVersion::new(1, 1), 2, world.settings.seed),
        texts: Arc::new(world.files.texts().unwrap()),
        weights: Arc::new(model::to_safetensors(&world.files.tensors).unwrap()),
        optimizer: none.state().unwrap(),
        adapters: None,
    };
    at.write(contents).unwrap();
    let inbox = bench.inbox();
    let actor = bench.actor(&inbox, as_is);
    bench.outcome(Source::Groups(inbox), actor).unwrap_err();
    assert_eq!(bench.files("checkpoints"), ["step-000001", "step-000003"]);
}

#[test]
fn ranks_that_are_the_present_ones_no_more_end_the_wait_for_a_batch() {
    let bench = Bench::new(Miniature::small());
    let inbox = bench.inbox();
    let (present, ranks) = bench.ranks();
    let mut actor = bench.actor(&inbox, as_is);
    let until_second: OnPublish = Box::new(move |version| match version.step {
        0 => actor(version),
        _ => {
            present.send_replace(directive(None));
        }
    });
    let solo = Box::new(Solo::new(Generation(1)));
    let world = &bench.world;
    let mut trainer =
        Trainer::new(&world.settings, world.files.clone(), world.task.stops(), solo).unwrap();
    let mut train = bench.train_loop(Source::Groups(inbox), until_second, ranks);
    assert_eq!(train.run(&mut trainer).unwrap(), Ended::Superseded);
    assert_eq!((train.version, trainer.steps_taken()), (PolicyVersion::new(1, 1), 1));
    assert!(bench.files("checkpoints").is_empty(), "the ranks that follow go on from it");
}

#[test]
fn a_stuck_step_is_no_progress_and_a_finished_run_may_idle() {
    let bench = Bench::new(Miniature::small());
    let inbox = bench.inbox();
    let mut actor = bench.actor(&inbox, as_is);
    let health = bench.health.clone();
    let stuck: OnPublish = Box::new(move |version| {
        // Nothing beats while the loop is in here, however long that takes.
        let later = Instant::now() + LIMIT + Duration::from_secs(9);
        let fault = health.check(later).unwrap_err();
        assert!(fault.contains("no progress for") && fault.ends_with("the limit is 60 s"));
        actor(version);
    });
    bench.run(Source::Groups(inbox), stuck);
    let later = Instant::now() + Duration::from_secs(86_400);
    assert_eq!(bench.health.check(later), Ok(()));
}

/// Two steps on worked examples.
fn supervised(takes_commits: u32) -> (anyhow::Result<Ended>, Bench) {
    let world = Miniature::with(|s| {
        s.train.objective = Objective::Sft;
        s.train.steps = 2;
    });
    let bench = Bench { takes_commits, ..Bench::new(world) };
    let (feed, _wants, sender) = ExampleFeed::new(2);
    for step in 0..2 {
        let problems = (0..4).map(|id| bench.world.problem(id));
        let examples = problems.map(|p| example(&bench.world.task, &p).unwrap()).collect();
        let (generation, of_all_ranks) = (Generation(1), 4);
        let batch = ExampleBatch { generation, step, examples, of_all_ranks };
        sender.try_send(batch).unwrap();
    }
    let outcome = bench.outcome(Source::Examples(feed), Box::new(|_| ()));
    (outcome, bench)
}

#[test]
fn supervised_steps_run_through_the_same_loop() {
    let (outcome, bench) = supervised(2);
    assert_eq!(outcome.unwrap(), Ended::Done);
    let seen = bench.seen.lock().unwrap();
    let versions: Vec<u32> = seen.published.iter().map(|(version, _)| version.step).collect();
    assert_eq!((versions, seen.committed.len()), (vec![0], 2), "nobody reads later versions");
    let losses: Vec<f64> = seen.committed.iter().map(|record| record.values["loss"]).collect();
    assert!(losses[1] < losses[0], "{losses:?}");
    assert!(seen.committed.iter().all(|record| record.groups_trained == 4));
    assert_eq!(bench.files("checkpoints"), ["step-000002"]);
    assert!(bench.files("rollouts").is_empty());
}

#[test]
fn a_supervised_step_that_is_not_committed_is_kept() {
    let (outcome, bench) = supervised(0);
    assert!(outcome.unwrap_err().to_string().contains("the coordinator is gone"));
    assert_eq!(bench.files("checkpoints"), ["step-000001"]);
}
