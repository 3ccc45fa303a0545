//! What all hosts of one simulation share: the seed's dice, what is on disk, and who takes part.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use settings::Settings;
use types::Epoch;

use super::TICK;
use super::oracle::Oracle;
use crate::source::Source;
use crate::spec::RunSpec;

pub(super) const STEPS: u32 = 6;
pub(super) const GROUPS: u64 = 3;
pub(super) const SAMPLES: u32 = 4;
/// Versions that a step may be ahead of the weights it is trained on.
pub(super) const STALENESS: u32 = 1;

/// The copies that each step was made of, by group: a model's weights, for our purposes.
pub(super) type History = Vec<BTreeMap<u64, Epoch>>;

/// SplitMix64 (Steele et al. 2014).
pub(super) struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) actors: u32,
    pub(super) ranks: u32,
    /// Another process that takes rank 0's place where it can get it, whatever became of the first.
    pub(super) understudy: bool,
}

impl Cast {
    /// Names of hosts, and which rank each is.
    pub(super) fn learners(self) -> Vec<(&'static str, u32)> {
        let mut found = vec![("learner-0", 0), ("learner-1", 1)];
        found.truncate(self.ranks as usize);
        found.extend(self.understudy.then_some(("understudy", 0)));
        found
    }
}

pub(super) struct World {
    seed: u64,
    dice: RefCell<Dice>,
    cast: Cast,
    pub(super) spec: RunSpec,
    pub(super) source: Source,
    oracle: RefCell<Oracle>,
    /// Of the learner, by step.
    checkpoints: RefCell<BTreeMap<u32, History>>,
    /// Of messages, at most.
    latency_ms: u64,
    numbers: Cell<u64>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let cast = Cast {
            actors: 2 + dice.roll(2) as u32,
            ranks: 1 + dice.roll(2) as u32,
            understudy: dice.roll(2) == 0,
        };
        let settings = settings(dice.roll(3) == 0);
        let source = Source::open(&settings).unwrap();
        let mut spec = RunSpec::launch(&settings, &source, cast.actors).unwrap();
        spec.members.weak_servers = 0;
        spec.members.learners = cast.ranks;
        spec.absence_max = Duration::from_millis(400);
        spec.silence_max = Duration::from_millis(700);
        let latency_ms = 2 + dice.roll(60);
        let (oracle, dice) = (RefCell::new(Oracle::new()), RefCell::new(dice));
        let (checkpoints, numbers) = (RefCell::default(), Cell::new(0));
        Self { seed, dice, cast, spec, source, oracle, checkpoints, latency_ms, numbers }
    }

    pub(super) fn network(&self) -> turmoil::Builder {
        let mut network = turmoil::Builder::new();
        network
            .rng_seed(self.seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3_600))
            .tcp_capacity(1 << 12);
        network
    }

    /// How long messages are on their way that are sent now.
    pub(super) fn latency(&self) -> Duration {
        self.millis(0..self.latency_ms)
    }

    pub(super) fn cast(&self) -> Cast {
        self.cast
    }

    pub(super) fn roll(&self, sides: u64) -> u64 {
        self.dice.borrow_mut().roll(sides)
    }

    /// A number that nobody else has.
    pub(super) fn unique(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// True once in so many times.
    pub(super) fn once_in(&self, times: u64) -> bool {
        self.roll(times) == 0
    }

    pub(super) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.roll(range.end - range.start))
    }

    pub(super) async fn pause(&self, range: Range<u64>) {
        tokio::time::sleep(self.millis(range)).await;
    }

    pub(super) fn oracle(&self) -> RefMut<'_, Oracle> {
        self.oracle.borrow_mut()
    }

    pub(super) fn checkpoints(&self) -> RefMut<'_, BTreeMap<u32, History>> {
        self.checkpoints.borrow_mut()
    }
}

fn settings(evaluates: bool) -> Settings {
    let mut settings = Settings::default();
    settings.train.steps = STEPS;
    settings.train.problems_per_step = GROUPS as u32;
    settings.train.samples_per_problem = SAMPLES;
    settings.staleness.max_versions = STALENESS;
    settings.eval.enabled = evaluates;
    settings.eval.problems = 1;
    settings.eval.schedules = vec!["token:0.25".to_owned()];
    settings.eval.every_steps = 2;
    settings.eval.every_problems = 1;
    settings.coordinator.lease_deadline_ms = 600;
    settings.coordinator.group_deals_max = u32::MAX;
    settings
}

/// The groups of a step, counted from 0.
pub(super) fn groups_of(step: u32) -> Range<u64> {
    u64::from(step) * GROUPS..(u64::from(step) + 1) * GROUPS
}
