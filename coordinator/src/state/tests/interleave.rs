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

/// Actors that finish, fail, forget and come late, and say so late; a learner that finds groups
/// stale, dies and comes back from a checkpoint.
fn interleave(seed: u64) {
    let (mut state, actors, mut learner) = training(3);
    let mut dice = Dice(seed);
    let mut now = Duration::ZERO;
    let mut step = 0;
    let mut out: Vec<WorkItem> = Vec::new();
    let mut delivered: Vec<Completion> = Vec::new();
    let (mut generation, mut checkpoint) = (1, 0);
    let mut applied = vec![version(0); actors.len()];
    let mut epochs: BTreeMap<u64, Epoch> = BTreeMap::new();
    let mut inbox = Learner::default();
    for _ in 0..100_000 {
        let which = dice.roll(actors.len() as u64) as usize;
        let actor = actors[which];
        match dice.roll(11) {
            0 => applied[which] = PolicyVersion::new(generation, step),
            1 if dice.roll(40) == 0 => {
                state.ended(Role::Learner, 0);
                learner = register(&mut state, Role::Learner, 0);
                generation += 1;
                inbox.restart(checkpoint);
                step = checkpoint;
                // Until the new ranks say from where they go on, work is dealt as before.
                let items = state.lease(&ask_with(actor, applied[which], 9), now).unwrap();
                out.extend(items);
                state.publish(PolicyVersion::new(generation, step)).unwrap();
                assert_eq!(state.committed(), step, "{seed}");
            }
            1 => {
                now += Duration::from_millis(dice.roll(400));
                state.tick(now);
            }
            2..=4 => {
                let room = dice.roll(20) as u32;
                let items = state.lease(&ask_with(actor, applied[which], room), now).unwrap();
                check_dealt(&items, applied[which].step, room, &mut epochs);
                out.extend(items);
            }
            5 if !out.is_empty() => {
                let item = out.swap_remove(dice.roll(out.len() as u64) as usize);
                state.return_group(&returned(actor, &item, ReturnReason::Failed)).unwrap();
            }
            6..=7 if !out.is_empty() => {
                let item = out.swap_remove(dice.roll(out.len() as u64) as usize);
                if item.group.0 >= u64::from(step) * GROUPS {
                    inbox.offer(&item);
                }
                let generation = Generation(generation);
                delivered.push(Completion { lease: item.lease, generation });
            }
            8 if !delivered.is_empty() => {
                let one = delivered.swap_remove(dice.roll(delivered.len() as u64) as usize);
                if dice.roll(8) > 0 {
                    state.complete(actor, &[one]).unwrap();
                }
            }
            _ if inbox.has_all(step) && dice.roll(3) == 0 => {
                let group = u64::from(step) * GROUPS + dice.roll(GROUPS);
                let epoch = inbox.drop_stale(group, dice.roll(2) == 0);
                state.return_group(&stale(learner, group, epoch)).unwrap();
            }
            _ if inbox.has_all(step) => {
                inbox.consume(step);
                step += 1;
                let version = PolicyVersion::new(generation, step);
                state.publish(version).unwrap();
                let record = StepRecord { version, ..record(learner, step) };
                assert_eq!(state.commit(&record), Ok(true), "{seed}");
                if step == STEPS {
                    break;
                }
                if dice.roll(3) == 0 {
                    checkpoint = step;
                }
            }
            _ => {}
        }
    }
    assert_eq!(*state.phase(), Phase::Done, "{seed}: stuck at step {step}");
    check_consumed(&state, &inbox, seed);
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
fn every_group_is_consumed_once_whatever_the_order() {
    (0..200).for_each(interleave);
}
