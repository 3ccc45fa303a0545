//! Whatever order groups, copies and redeals come in, each step gets exactly its own.

use tandem::RandomKey;

use super::*;
use crate::fixtures::Miniature;

fn window(max_versions: u32) -> Window {
    let steps_ahead = u64::from(max_versions);
    Window { groups_per_step: 3, steps_ahead, max_versions, rank: 0, world: 1 }
}

/// A group of one sample whose strong tokens are all of one step.
fn group(world: &Miniature, id: u64, epoch: u32, step: u32) -> RolloutGroup {
    let mut group = world.group(id, step);
    group.samples.truncate(1);
    RolloutGroup { epoch: Epoch(epoch), ..group }
}

fn ids(batch: &[RolloutGroup]) -> Vec<u64> {
    batch.iter().map(|group| group.group.0).collect()
}

#[test]
fn only_open_steps_are_taken_and_only_once() {
    let world = Miniature::small();
    let mut assembler = Assembler::new(window(1), 2);
    let mut offer = |id| assembler.offer(group(&world, id, 1, 2));
    // Step 2 is groups 6 to 8, step 3 groups 9 to 11.
    assert_eq!([5, 6, 6, 11, 12].map(&mut offer), {
        use Offer::{Accepted, Ahead, Duplicate};
        [Duplicate, Accepted, Duplicate, Accepted, Ahead]
    });
    assert_eq!(assembler.form(), Formed::default());
    assert_eq!((assembler.missing(), assembler.held()), (2, 2));
    assert_eq!(assembler.take_counts(), Counts { stale: 0, duplicates: 2, replaced: 0 });
}

#[test]
fn stale_groups_are_dropped_when_the_batch_forms_and_fenced() {
    let world = Miniature::small();
    let mut assembler = Assembler::new(window(1), 5);
    // Weights of step 3 are two behind step 5.
    for (id, step) in [(15, 5), (16, 3), (17, 4)] {
        assert_eq!(assembler.offer(group(&world, id, 1, step)), Offer::Accepted);
    }
    let formed = assembler.form();
    assert_eq!((formed.batch, ids(&formed.stale)), (None, vec![16]));
    assert_eq!(assembler.take_counts(), Counts { stale: 1, duplicates: 0, replaced: 0 });
    // Another copy of what was given back is no news, the redeal is.
    assert_eq!(assembler.offer(group(&world, 16, 1, 5)), Offer::Duplicate);
    assert_eq!(assembler.form(), Formed::default());
    assert_eq!(assembler.offer(group(&world, 16, 2, 5)), Offer::Accepted);
    assert_eq!(ids(&assembler.form().batch.unwrap()), [15, 16, 17]);
    assert_eq!(assembler.step(), 6);
}

#[test]
fn a_stale_group_is_given_back_under_the_highest_epoch_seen() {
    let world = Miniature::small();
    let mut assembler = Assembler::new(window(0), 1);
    for (id, step) in [(3, 0), (4, 1), (5, 1)] {
        assert_eq!(assembler.offer(group(&world, id, 1, step)), Offer::Accepted);
    }
    // Its lease had run out: the copies of the later leases count as delivered.
    assert_eq!(assembler.judge(GroupId(3), Epoch(3)), Offer::Duplicate);
    assert_eq!(assembler.judge(GroupId(3), Epoch(2)), Offer::Duplicate);
    let stale: Vec<_> = assembler.form().stale.iter().map(|g| (g.group.0, g.epoch.0)).collect();
    assert_eq!(stale, [(3, 3)]);
    assert_eq!(assembler.offer(group(&world, 3, 3, 1)), Offer::Duplicate);
    assert_eq!(assembler.offer(group(&world, 3, 4, 1)), Offer::Accepted);
}

#[test]
fn a_rank_collects_its_own_share() {
    let world = Miniature::small();
    let window = Window { rank: 1, world: 2, ..window(0) };
    let mut assembler = Assembler::new(window, 0);
    assert_eq!(assembler.offer(group(&world, 0, 1, 0)), Offer::Elsewhere { rank: 0 });
    assert_eq!(assembler.missing(), 1);
    assert_eq!(assembler.offer(group(&world, 1, 1, 0)), Offer::Accepted);
    assert_eq!(ids(&assembler.form().batch.unwrap()), [1]);
    // Step 1 is groups 3 to 5: two of them are odd.
    assert_eq!(assembler.missing(), 2);
}

/// Deals groups as a coordinator would.
struct Dealer<'a> {
    world: &'a Miniature,
    /// Of every group dealt, by id; a give-back under another epoch says nothing.
    epochs: Vec<u32>,
    in_flight: Vec<RolloutGroup>,
}

impl Dealer<'_> {
    fn deal(&mut self, id: u64, step: u32) {
        if id as usize == self.epochs.len() {
            self.epochs.push(0);
        }
        self.in_flight.push(group(self.world, id, self.epochs[id as usize], step));
    }

    /// A lease has run out, whatever became of the earlier copy.
    fn expire(&mut self, id: u64, step: u32) {
        self.epochs[id as usize] += 1;
        self.deal(id, step);
    }

    fn give_back(&mut self, stale: &RolloutGroup, step: u32) {
        let id = stale.group.0;
        if stale.epoch.0 == self.epochs[id as usize] {
            self.expire(id, step);
        }
    }
}

/// Delivers groups in a drawn order with drawn copies, some of them stale, lets leases run out
/// whose groups are delivered or not, and deals again whatever comes back.
fn any_order(world: &Miniature, seed: u64) {
    const STEPS: u32 = 6;
    let key = RandomKey::from_bytes([seed as u8; 32]);
    let mut draws = (0..).map(|i| key.uniform(i));
    let mut draw = || draws.next().unwrap();
    let mut assembler = Assembler::new(window(1), 0);
    let mut dealer = Dealer { world, epochs: Vec::new(), in_flight: Vec::new() };
    let mut consumed = Vec::new();
    for _ in 0..2_000 {
        let step = assembler.step();
        if step == STEPS {
            break;
        }
        while dealer.epochs.len() < (step as usize + 2) * 3 {
            dealer.deal(dealer.epochs.len() as u64, step);
        }
        assert!(!dealer.in_flight.is_empty(), "seed {seed}: step {step} waits for ever");
        let place = (draw() * dealer.in_flight.len() as f64) as usize;
        let mut arriving = match draw() < 0.3 {
            true => dealer.in_flight[place].clone(),
            false => dealer.in_flight.swap_remove(place),
        };
        if draw() < 0.2 && step >= 2 {
            let epoch = arriving.epoch;
            arriving = RolloutGroup { epoch, ..group(world, arriving.group.0, 0, 0) };
        }
        let id = arriving.group.0;
        assembler.offer(arriving);
        if draw() < 0.1 {
            dealer.expire(id, step);
        }
        let formed = assembler.form();
        formed.stale.iter().for_each(|stale| dealer.give_back(stale, step));
        consumed.extend(formed.batch.iter().flat_map(|batch| ids(batch)));
    }
    let expected: Vec<u64> = (0..u64::from(STEPS) * 3).collect();
    assert_eq!(consumed, expected, "seed {seed}");
}

#[test]
fn every_step_gets_exactly_its_groups_in_any_order() {
    let world = Miniature::small();
    for seed in 0..20 {
        any_order(&world, seed);
    }
}

#[test]
fn an_inbox_that_cannot_hold_the_open_steps_is_refused() {
    let world = Miniature::with(|s| s.learner.inbox_groups = 3);
    let error = Window::new(&world.settings, 0, 1).unwrap_err().to_string();
    assert!(error.contains("learner.inbox_groups is 3 but 4"), "{error}");
}
