//! Several ranks take the step of one, each on all weights or on its own part.

use super::*;
use crate::collective::Ring;
use crate::collective::fixtures::{on_ranks, plans};

fn ranks<R: Send>(count: usize, work: impl Fn(Ring) -> R + Sync) -> Vec<R> {
    on_ranks(plans(count, Duration::from_secs(60)), work)
}

#[test]
fn two_ranks_take_the_step_of_one_also_when_one_has_nothing() {
    let world = Miniature::small();
    let mut solo = trainer(&world);
    let mut groups = world.step_groups(0, solo.policy());
    for sample in 0..4 {
        // The second rank's group is without variance: it enters all sums with zeros.
        let dull = with_parts(groups[1].clone(), sample, |parts| parts.verdict.reward = 1.0);
        groups[1] = dull;
    }
    let (expected, figures) = train(&world, &mut solo, &groups);
    let found = ranks(2, |ring| {
        let group = std::slice::from_ref(&groups[ring.rank()]);
        let mut trainer = trainer_of(&world, Box::new(ring));
        (train(&world, &mut trainer, group), hash(&trainer))
    });
    assert_eq!(found[0].1, found[1].1, "both ranks hold the same weights");
    for ((report, rank_figures), _) in &found {
        assert_eq!(report.tokens, expected.tokens);
        assert_eq!(rank_figures.tally, figures.tally);
        assert_eq!(rank_figures.reward_mean, figures.reward_mean);
        assert!((report.loss - expected.loss).abs() < 1e-9);
        assert!((report.grad_norm / expected.grad_norm - 1.0).abs() < 1e-6);
    }
    assert_eq!(found[0].1, hash(&solo));
}

#[test]
fn a_state_that_cannot_be_handed_over_stays_whole() {
    let world = Miniature::small();
    let found = ranks(2, |ring| {
        if ring.rank() == 1 {
            return None;
        }
        let mut trainer = trainer_of(&world, Box::new(ring));
        let before = hash(&trainer);
        trainer.share_from(0).unwrap_err();
        Some((trainer.is_whole(), hash(&trainer) == before))
    });
    assert_eq!(found[0], Some((true, true)));
}

/// All weights, in name order.
fn numbers(trainer: &Trainer) -> Vec<f32> {
    let parameters = trainer.optimizer().parameters();
    let mut numbers = vec![0.0; parameters.elem_count()];
    parameters.read(&(0..numbers.len()), &mut numbers).unwrap();
    numbers
}

fn largest_distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| f32::max(most, (a - b).abs()))
}

/// Three steps on three ranks, of which each has one of the three groups.
fn three_steps(world: &Miniature, steps: &[Vec<RolloutGroup>]) -> Vec<(Vec<f32>, Vec<f64>, bool)> {
    ranks(3, |ring| {
        let rank = ring.rank();
        let mut trainer = trainer_of(world, Box::new(ring));
        let norms = steps.iter().map(|groups| {
            train(world, &mut trainer, std::slice::from_ref(&groups[rank])).0.grad_norm
        });
        let norms = norms.collect();
        let part = trainer.optimizer().part().len();
        let has_part = part < trainer.optimizer().parameters().elem_count();
        (numbers(&trainer), norms, has_part)
    })
}

#[test]
fn a_sharded_optimiser_takes_the_step_of_a_whole_one() {
    let with = |shard: bool, max: f64| {
        Miniature::with(|s| {
            s.train.shard_optimizer = shard;
            s.train.problems_per_step = 3;
            s.train.grad_norm_max = max;
            // Adam makes steps of up to the rate of what rounding leaves of a gradient of 0.
            s.train.learning_rate = 3e-5;
        })
    };
    // With and without clipping.
    for max in [0.01, 100.0] {
        let world = with(false, max);
        let mut solo = trainer(&world);
        let start = numbers(&solo);
        let mut steps = Vec::new();
        let mut norms = Vec::new();
        for step in 0..3 {
            let groups = world.step_groups(step, solo.policy());
            norms.push(train(&world, &mut solo, &groups).0.grad_norm);
            steps.push(groups);
        }
        let expected = numbers(&solo);
        assert!(largest_distance(&start, &expected) > 5e-5);
        let whole = three_steps(&world, &steps);
        let sharded = three_steps(&with(true, max), &steps);
        assert_eq!(sharded[0].0, sharded[1].0, "all ranks hold the same weights");
        assert_eq!(sharded[0].0, sharded[2].0);
        let off = largest_distance(&sharded[0].0, &whole[0].0);
        assert!(off < 1e-8, "a whole optimiser on the same ring is {off:e} apart");
        for (found, has_part) in [(&whole, false), (&sharded, true)] {
            for (numbers, found, part) in found {
                assert_eq!(*part, has_part);
                let off = largest_distance(numbers, &expected);
                assert!(off < 1e-6, "weights {off:e} apart");
                for (found, expected) in found.iter().zip(&norms) {
                    assert!((found / expected - 1.0).abs() < 1e-5, "{found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_number_that_is_gone_on_one_rank_stops_all() {
    let world = Miniature::with(|s| s.train.shard_optimizer = true);
    let found = ranks(2, |ring| {
        let rank = ring.rank();
        let mut trainer = trainer_of(&world, Box::new(ring));
        let before = numbers(&trainer);
        let mut gradients = Gradients::zeros(trainer.optimizer.parameters()).unwrap();
        if rank == 1 {
            let spoil = |flat: &mut [f32]| {
                flat[0] = f32::NAN;
                Ok::<(), grpo::Error>(())
            };
            gradients.on_host(spoil).unwrap();
        }
        let torn = &Cell::new(false);
        let update = Update { learning_rate: 0.1, grad_norm_max: 1.0, sharded: true, torn };
        let Trainer { optimizer, collective, .. } = &mut trainer;
        let error = update.take(optimizer, &mut gradients, collective.as_mut()).unwrap_err();
        assert_eq!(numbers(&trainer), before);
        format!("{error:#}")
    });
    assert!(found[0].contains("gradient of `lm_head.weight` has a value"), "{found:?}");
    assert!(found[1].contains("another rank's part: training has diverged"), "{found:?}");
}

#[test]
fn a_sharded_checkpoint_is_a_whole_one() {
    let world = Miniature::with(|s| s.train.shard_optimizer = true);
    let solo_world = Miniature::small();
    let mut solo = trainer(&solo_world);
    let groups = world.step_groups(0, solo.policy());
    train(&solo_world, &mut solo, &groups);
    let expected = solo.optimizer_state().unwrap();
    let expected: Vec<f32> = expected.entries().flat_map(|(.., v)| v.to_vec()).collect();
    let found = ranks(2, |ring| {
        let group = std::slice::from_ref(&groups[ring.rank()]);
        let mut trainer = trainer_of(&world, Box::new(ring));
        train(&world, &mut trainer, group);
        assert!(trainer.optimizer().state().is_err(), "each rank has a part only");
        let state = trainer.optimizer_state().unwrap();
        state.entries().flat_map(|(.., values)| values.to_vec()).collect::<Vec<f32>>()
    });
    for found in found {
        assert!(largest_distance(&found, &expected) < 1e-6);
    }
}
