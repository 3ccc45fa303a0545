//! Row 9: the real service over simulated links, between models of actors and of the learner's
//! ranks. Messages are late, lost and reordered, links are cut, every host dies and comes back, all
//! as a seed says; what must hold meanwhile is in `oracle`.
//!
//! `TANDEM_SIMULATION_SEED=N` runs one seed and tells what happens, `TANDEM_SIMULATION_SEEDS=N` so
//! many.

mod actor;
mod desk;
mod faults;
mod host;
mod learner;
mod net;
mod oracle;
mod ring;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use faults::Faults;
use world::{Cast, World};

use crate::state::Phase;

const SEEDS: u64 = 1_000;
/// A thread's simulations share nothing with another's.
const THREADS: usize = 4;
/// All hosts run for so long in turn.
const TICK: Duration = Duration::from_millis(5);
/// Once nothing goes wrong any more, a run ends by then.
const RECOVERY: Duration = Duration::from_secs(30);

/// What a run was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Story {
    /// Of all that the hosts were told, in its order.
    trace: u64,
    elapsed: Duration,
    faults: u32,
    /// Lives of the coordinator, and generations of the ranks.
    lives: u32,
    generations: u32,
    undone: u32,
}

/// One run from its start to its end.
///
/// # Panics
/// Something does not hold.
fn simulate(seed: u64) -> Story {
    let world = Rc::new(World::new(seed));
    let mut sim = world.network().build();
    let cast = world.cast();
    let mut faults = Faults::new(cast);
    populate(&mut sim, &world, cast);
    loop {
        let stepped = sim.step();
        stepped.unwrap_or_else(|error| panic!("a host failed: {error}"));
        let now = sim.elapsed();
        faults.happen(&mut sim, &world);
        let phase = world.oracle().look(now);
        if phase == Some(Phase::Done) {
            break;
        }
        let late = now.saturating_sub(faults.end());
        assert!(late < RECOVERY, "the run does not end: {}", world.oracle().stuck());
    }
    world.oracle().conclude();
    let mut story = world.oracle().story();
    (story.elapsed, story.faults) = (sim.elapsed(), faults.count());
    story
}

fn populate(sim: &mut turmoil::Sim<'_>, world: &Rc<World>, cast: Cast) {
    let coordinator = Rc::clone(world);
    sim.host(host::NAME, move || host::coordinate(Rc::clone(&coordinator)));
    for index in 0..cast.actors {
        let world = Rc::clone(world);
        sim.host(actor::name(index), move || actor::act(Rc::clone(&world), index));
    }
    for (name, rank) in cast.learners() {
        let world = Rc::clone(world);
        sim.host(name, move || learner::learn(Rc::clone(&world), name, rank));
    }
}

/// Runs these seeds on several threads; whatever fails is told, and the seeds are returned.
fn run(seeds: std::ops::Range<u64>) -> (Vec<Story>, Vec<u64>) {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let (mut stories, mut failed) = (Vec::new(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (stories, failed);
            }
            match catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
                Ok(story) => stories.push(story),
                Err(_) => {
                    eprintln!("seed {seed} failed, see it with TANDEM_SIMULATION_SEED={seed}");
                    failed.push(seed);
                }
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let (mut stories, mut failed) = (Vec::new(), Vec::new());
        for thread in threads {
            let (some, none) = thread.join().unwrap();
            stories.extend(some);
            failed.extend(none);
        }
        failed.sort_unstable();
        (stories, failed)
    })
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn row_9_every_group_is_consumed_once_whatever_the_network_does() {
    if let Some(seed) = asked("TANDEM_SIMULATION_SEED") {
        eprintln!("seed {seed}: {:?}", simulate(seed));
        return;
    }
    let (stories, failed) = run(0..asked("TANDEM_SIMULATION_SEEDS").unwrap_or(SEEDS));
    let sum = |of: fn(&Story) -> u32| stories.iter().map(|story| u64::from(of(story))).sum::<u64>();
    println!(
        "row 9: {} seeds, {} faults, {} lives of the coordinator, {} generations, {} steps undone",
        stories.len(),
        sum(|story| story.faults),
        sum(|story| story.lives),
        sum(|story| story.generations),
        sum(|story| story.undone),
    );
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}

#[test]
fn a_seed_tells_its_story_twice() {
    for seed in 0..10 {
        assert_eq!(simulate(seed), simulate(seed), "{seed}");
    }
}
