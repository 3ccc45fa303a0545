//! The invariants under seeded random interleavings.

use std::collections::BTreeMap;

use super::*;

/// SplitMix64 (Steele et al. 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A learner that takes the first complete copy of each group of the step in hand and the next,
/// and gives back what proves stale when the step is complete.
#[derive(Default)]
struct Learner {
    held: BTreeMap<u64, Epoch>,
    /// The last epoch that came of each group.
    seen: BTreeMap<u64, Epoch>,
    /// The last epoch given back: only a higher one is news.
    fences: BTreeMap<u64, Epoch>,
    times: BTreeMap<u64, u32>,
}

impl Learner {
    fn offer(&mut self, item: &WorkItem) {
        let (group, epoch) = (item.group.0, item.epoch);
        let seen = self.seen.entry(group).or_insert(epoch);
        *seen = epoch.max(*seen);
        if self.fences.get(&group).is_none_or(|fence| epoch > *fence) {
            self.held.entry(group).or_insert(epoch);
        }
    }

    fn has_all(&self, step: u32) -> bool {
        groups_of(step).all(|group| self.held.contains_key(&group))
    }

    /// Drops a held group; the epoch to give it back under, which is the held one or the last seen.
    fn drop_stale(&mut self, group: u64, under_held: bool) -> Epoch {
        let held = self.held.remove(&group).expect("it is held");
        let epoch = if under_held { held } else { self.seen[&group] };
        self.fences.insert(group, epoch);
        epoch
    }

    /// Another process in its place goes on from a checkpoint: what is after it was never done.
    fn restart(&mut self, step: u32) {
        self.held.clear();
        self.seen.clear();
        self.fences.clear();
        self.times.retain(|group, _| *group < u64::from(step) * GROUPS);
    }

    fn consume(&mut self, step: u32) {
        for group in groups_of(step) {
            self.held.remove(&group);
            *self.times.entry(group).or_insert(0) += 1;
        }
    }
}

fn groups_of(step: u32) -> std::ops::Range<u64> {
    u64::from(step) * GROUPS..(u64::from(step) + 1) * GROUPS
}

/// A run in which everything that can happen does, in an order drawn from a seed.
struct World {
    seed: u64,
    dice: Dice,
    state: RunState,
    actors: Vec<MemberId>,
    learner: MemberId,
    generation: u32,
    step: u32,
    checkpoint: u32,
    inbox: Learner,
    now: Duration,
    out: Vec<WorkItem>,
    delivered: Vec<Completion>,
    applied: Vec<PolicyVersion>,
    epochs: BTreeMap<u64, Epoch>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (state, actors, learner) = training(3);
        Self {
            seed,
            dice: Dice(seed),
            applied: vec![version(0); actors.len()],
            state,
            actors,
            learner,
            generation: 1,
            step: 0,
            checkpoint: 0,
            inbox: Learner::default(),
            now: Duration::ZERO,
            out: Vec::new(),
            delivered: Vec::new(),
            epochs: BTreeMap::new(),
        }
    }

    /// Actors finish, fail, forget and come late, and say so late; the learner finds groups stale,
    /// dies and comes back from a checkpoint. False once all steps are taken.
    fn happen(&mut self) -> bool {
        let which = self.dice.roll(self.actors.len() as u64) as usize;
        match self.dice.roll(11) {
            0 => self.applied[which] = PolicyVersion::new(self.generation, self.step),
            1 if self.dice.roll(40) == 0 => self.restart_learner(which),
            1 => {
                self.now += Duration::from_millis(self.dice.roll(400));
                self.state.tick(self.now);
            }
            2..=4 => {
                let room = self.dice.roll(20) as u32;
                let items = self.lease(which, room);
                check_dealt(&items, self.applied[which].step, room, &mut self.epochs);
                self.out.extend(items);
            }
            5 if !self.out.is_empty() => {
                let item = pick(&mut self.dice, &mut self.out);
                let failed = returned(self.actors[which], &item, ReturnReason::Failed);
                self.state.return_group(&failed).unwrap();
            }
            6..=7 if !self.out.is_empty() => self.deliver(),
            8 if !self.delivered.is_empty() => {
                let one = pick(&mut self.dice, &mut self.delivered);
                if self.dice.roll(8) > 0 {
                    self.state.complete(self.actors[which], &[one]).unwrap();
                }
            }
            _ if self.inbox.has_all(self.step) && self.dice.roll(3) == 0 => {
                let group = u64::from(self.step) * GROUPS + self.dice.roll(GROUPS);
                let epoch = self.inbox.drop_stale(group, self.dice.roll(2) == 0);
                self.state.return_group(&stale(self.learner, group, epoch)).unwrap();
            }
            _ if self.inbox.has_all(self.step) => return self.take_step(),
            _ => {}
        }
        true
    }

    fn lease(&mut self, which: usize, room: u32) -> Vec<WorkItem> {
        let ask = ask_with(self.actors[which], self.applied[which], room);
        self.state.lease(&ask, self.now).unwrap()
    }

    fn restart_learner(&mut self, which: usize) {
        self.state.ended(Role::Learner, 0);
        self.learner = register(&mut self.state, Role::Learner, 0);
        self.generation += 1;
        self.inbox.restart(self.checkpoint);
        self.step = self.checkpoint;
        // Until the new ranks say from where they go on, work is dealt as before.
        let items = self.lease(which, 9);
        self.out.extend(items);
        self.state.publish(PolicyVersion::new(self.generation, self.step)).unwrap();
        assert_eq!(self.state.committed(), self.step, "{}", self.seed);
    }

    fn deliver(&mut self) {
        let item = pick(&mut self.dice, &mut self.out);
        if item.group.0 >= u64::from(self.step) * GROUPS {
            self.inbox.offer(&item);
        }
        let generation = Generation(self.generation);
        self.delivered.push(Completion { lease: item.lease, generation });
    }

    fn take_step(&mut self) -> bool {
        self.inbox.consume(self.step);
        self.step += 1;
        let version = PolicyVersion::new(self.generation, self.step);
        self.state.publish(version).unwrap();
        let record = StepRecord { version, ..record(self.learner, self.step) };
        assert_eq!(commit(&mut self.state, &record), Ok(true), "{}", self.seed);
        if self.dice.roll(3) == 0 {
            self.checkpoint = self.step;
        }
        self.step < STEPS
    }
}

fn pick<T>(dice: &mut Dice, from: &mut Vec<T>) -> T {
    let at = dice.roll(from.len() as u64) as usize;
    from.swap_remove(at)
}

fn interleave(seed: u64) {
    let mut world = World::new(seed);
    let ended = (0..100_000).any(|_| !world.happen());
    let World { state, inbox, step, .. } = &world;
    assert!(ended && *state.phase() == Phase::Done, "{seed}: stuck at step {step}");
    check_consumed(state, inbox, seed);
}

fn ask_with(member: MemberId, applied: PolicyVersion, max_rollouts: u32) -> LeaseAsk {
    LeaseAsk { applied_version: Some(applied), ..ask(member, 0, max_rollouts) }
}

fn check_dealt(items: &[WorkItem], applied: u32, room: u32, epochs: &mut BTreeMap<u64, Epoch>) {
    assert!(items.iter().map(|item| item.samples).sum::<u32>() <= room);
    for item in items {
        let of = (item.group.0 / GROUPS) as u32;
        assert!(of <= applied + 1 && of < STEPS, "staleness");
        let known = epochs.insert(item.group.0, item.epoch);
        assert!(known.is_none_or(|known| known < item.epoch), "dealt twice");
    }
}

fn stale(learner: MemberId, group: u64, epoch: Epoch) -> ReturnedGroup {
    ReturnedGroup {
        member: learner,
        group: GroupId(group),
        epoch,
        purpose: Purpose::Train,
        reason: ReturnReason::Stale,
        detail: String::new(),
    }
}

fn check_consumed(state: &RunState, inbox: &Learner, seed: u64) {
    assert_eq!(inbox.times.len() as u64, u64::from(STEPS) * GROUPS, "{seed}");
    assert!(inbox.times.values().all(|times| *times == 1), "{seed}");
    let totals = state.totals();
    assert_eq!((totals.trained_twice, totals.consumed), (0, u64::from(STEPS) * GROUPS), "{seed}");
    assert_eq!(state.leases_open(Purpose::Train), 0, "{seed}: nothing of a consumed step is out");
}

#[test]
fn row_9_every_group_is_consumed_once_whatever_the_order() {
    (0..1_000).for_each(interleave);
}
