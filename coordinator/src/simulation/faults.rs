//! What goes wrong, and until when. At most a few things at once; everything ends.

use std::time::Duration;

use turmoil::Sim;

use super::world::{Cast, World};
use super::{actor, host};

/// From then on nothing goes wrong any more.
const END: Duration = Duration::from_millis(3_000);
const AT_ONCE_MAX: usize = 3;

enum Kind {
    /// Messages wait, and then all come at once.
    Held(&'static str, &'static str),
    /// Messages are lost.
    Cut(&'static str, &'static str),
    CutOneWay(&'static str, &'static str),
    Down(&'static str),
}

pub(super) struct Faults {
    hosts: Vec<&'static str>,
    present: Vec<(Duration, Kind)>,
    next: Duration,
    count: u32,
}

impl Faults {
    pub(super) fn new(cast: Cast) -> Self {
        let actors = (0..cast.actors).map(actor::name);
        let learners = cast.learners().into_iter().map(|(name, _)| name);
        let hosts = std::iter::once(host::NAME).chain(learners).chain(actors).collect();
        Self { hosts, present: Vec::new(), next: Duration::ZERO, count: 0 }
    }

    pub(super) fn end(&self) -> Duration {
        END
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn happen(&mut self, sim: &mut Sim<'_>, world: &World) {
        let now = sim.elapsed();
        self.delay(sim, world);
        let over = now >= END;
        let (ended, rest) = std::mem::take(&mut self.present)
            .into_iter()
            .partition::<Vec<_>, _>(|(until, _)| over || *until <= now);
        self.present = rest;
        for (_, kind) in ended {
            end(sim, world, &kind);
        }
        if !over && now >= self.next {
            self.next = now + world.millis(20..500);
            if self.present.len() < AT_ONCE_MAX {
                self.begin(sim, world);
            }
        }
    }

    /// Turmoil would draw a latency for each message, in the order of their sending; that is not
    /// the seed's where tokio wakes several tasks at once. So each link has one for a while.
    fn delay(&self, sim: &mut Sim<'_>, world: &World) {
        for (at, a) in self.hosts.iter().enumerate() {
            for b in &self.hosts[at + 1..] {
                sim.set_link_latency(*a, *b, world.latency());
            }
        }
    }

    fn begin(&mut self, sim: &mut Sim<'_>, world: &World) {
        let of = |count: usize| world.roll(count as u64) as usize;
        let count = self.hosts.len();
        let first = of(count);
        // Most of what there is to say is said to or by the coordinator.
        let second = if world.once_in(3) { (first + 1 + of(count - 1)) % count } else { 0 };
        let (a, b) = (self.hosts[first], self.hosts[second]);
        let kind = match world.roll(4) {
            0 if a != b => Kind::Held(a, b),
            1 if a != b => Kind::Cut(a, b),
            2 if a != b && world.once_in(2) => Kind::CutOneWay(a, b),
            2 if a != b => Kind::CutOneWay(b, a),
            _ => Kind::Down(a),
        };
        if self.present.iter().any(|(_, present)| present.touches(&kind)) {
            return;
        }
        let brief = world.once_in(3);
        let until = sim.elapsed() + world.millis(if brief { 5..30 } else { 30..1_200 });
        world.oracle().tell(format_args!("{} {kind:?}", sim.elapsed().as_millis()));
        match kind {
            Kind::Held(a, b) => sim.hold(a, b),
            Kind::Cut(a, b) => sim.partition(a, b),
            Kind::CutOneWay(a, b) => sim.partition_oneway(a, b),
            Kind::Down(a) => sim.crash(a),
        }
        self.count += 1;
        self.present.push((until, kind));
    }
}

fn end(sim: &mut Sim<'_>, world: &World, kind: &Kind) {
    world.oracle().tell(format_args!("{} over: {kind:?}", sim.elapsed().as_millis()));
    match *kind {
        Kind::Held(a, b) => sim.release(a, b),
        Kind::Cut(a, b) => sim.repair(a, b),
        Kind::CutOneWay(a, b) => sim.repair_oneway(a, b),
        Kind::Down(a) => sim.bounce(a),
    }
}

impl Kind {
    /// Whether both are of the same link or host, so that the end of one would be the other's.
    fn touches(&self, other: &Self) -> bool {
        let pair = |kind: &Self| match *kind {
            Self::Held(a, b) | Self::Cut(a, b) | Self::CutOneWay(a, b) => (a.min(b), a.max(b)),
            Self::Down(a) => (a, a),
        };
        pair(self) == pair(other)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held(a, b) => write!(f, "{a} and {b} wait for each other"),
            Self::Cut(a, b) => write!(f, "{a} and {b} are cut off from each other"),
            Self::CutOneWay(a, b) => write!(f, "{a} is not heard by {b}"),
            Self::Down(a) => write!(f, "{a} is down"),
        }
    }
}
