//! Steps on hand-made rollouts of a fresh miniature.

mod adapters;
mod memory;
mod ranks;

use std::path::Path;

use settings::TruncatedReward;
use types::{Author, Generation, Hash, PolicyVersion, RolloutGroup};

use super::*;
use crate::checkpoint::{CheckpointStore, load_checkpoint};
use crate::collective::Solo;
use crate::examples::example;
use crate::fixtures::{Miniature, with_parts};
use crate::rewards::{estimator, group_weights};
use crate::train_loop::{RolloutFigures, train_on_groups};

const GO_ON: &dyn Fn() -> bool = &|| false;

fn trainer(world: &Miniature) -> Trainer {
    trainer_of(world, Box::new(Solo::new(Generation(1))))
}

fn trainer_of(world: &Miniature, collective: Box<dyn Collective>) -> Trainer {
    Trainer::new(&world.settings, world.files.clone(), world.task.stops(), collective).unwrap()
}

fn train(
    world: &Miniature,
    trainer: &mut Trainer,
    groups: &[RolloutGroup],
) -> (StepReport, RolloutFigures) {
    train_on_groups(trainer, groups, &world.settings, GO_ON).unwrap().unwrap()
}

fn hash(trainer: &Trainer) -> Hash {
    Hash::of(&trainer.weights().unwrap())
}

/// Σ over strong tokens of weight × log-probability: what a step is to raise.
fn objective(world: &Miniature, trainer: &Trainer, groups: &[RolloutGroup]) -> f64 {
    let mut sum = 0.0;
    for group in groups {
        let rewards: Vec<Option<f32>> =
            group.samples.iter().map(|r| Some(r.parts().verdict.reward)).collect();
        let estimator = estimator(world.settings.train.objective).unwrap();
        let weights = group_weights(&rewards, estimator).weights;
        for (rollout, weight) in group.samples.iter().zip(weights) {
            let logprobs = world.logprobs(trainer.policy(), rollout);
            let authors = &rollout.parts().authors;
            let strong = logprobs.iter().zip(authors).filter(|(_, a)| **a == Author::Strong);
            sum += strong.map(|(logp, _)| f64::from(logp * weight)).sum::<f64>();
        }
    }
    sum
}

#[test]
fn a_step_moves_rewarded_tokens_up_and_the_others_down() {
    let world = Miniature::small();
    let mut trainer = trainer(&world);
    let groups = world.step_groups(0, trainer.policy());
    // Two samples of one group that differ in the answer only, which the strong model wrote.
    let answers: Vec<(&Rollout, usize)> = groups
        .iter()
        .flat_map(|group| &group.samples)
        .map(|rollout| (rollout, rollout.parts().tokens.len() - 2))
        .filter(|(rollout, at)| rollout.parts().authors[*at] == Author::Strong)
        .collect();
    let logps = |trainer: &Trainer| -> Vec<f32> {
        answers.iter().map(|(r, at)| world.logprobs(trainer.policy(), r)[*at]).collect()
    };
    let (before, objective_before) = (logps(&trainer), objective(&world, &trainer, &groups));
    let (report, figures) = train(&world, &mut trainer, &groups);
    let after = logps(&trainer);
    let rewarded: Vec<bool> = answers.iter().map(|(r, _)| r.parts().verdict.correct).collect();
    assert!(rewarded.contains(&true) && rewarded.contains(&false), "{rewarded:?}");
    for ((rewarded, before), after) in rewarded.iter().zip(before).zip(after) {
        assert_eq!(*rewarded, after > before, "{before} to {after}");
    }
    assert!(objective(&world, &trainer, &groups) > objective_before + 1e-3);
    assert_eq!((figures.reward_mean, figures.tally.groups_trained), (0.5, 2.0));
    assert_eq!(report.tokens as f64, figures.tally.strong_tokens);
    // On policy: nothing is mismatched, clipped or far from the start.
    let total = report.stats.total();
    assert!(total.largest < 1e-4 && total.clipped == 0.0, "{total:?}");
    assert!(report.stats.kl_to_start() < 1e-6 && report.grad_norm > 0.0);
    assert_eq!((trainer.steps_taken(), trainer.optimizer().step_count()), (1, 1));
}

#[test]
fn weak_tokens_log_probabilities_do_not_matter() {
    let world = Miniature::small();
    let (mut one, mut other) = (trainer(&world), trainer(&world));
    let groups = world.step_groups(0, one.policy());
    let mut changed = groups.clone();
    for group in &mut changed {
        for sample in 0..group.samples.len() {
            *group = with_parts(group.clone(), sample, |parts| {
                for (index, author) in parts.authors.iter().enumerate() {
                    if *author == Author::Weak {
                        parts.logprobs[index] = -7.0;
                    }
                    parts.weak_logprobs[index] = -3.0;
                }
            });
        }
    }
    assert_ne!(groups, changed);
    assert_eq!(train(&world, &mut one, &groups).0.loss, train(&world, &mut other, &changed).0.loss);
    assert_eq!(hash(&one), hash(&other));
}

#[test]
fn without_a_live_group_the_weights_stay_and_the_step_counts() {
    let world = Miniature::small();
    let mut trainer = trainer(&world);
    let before = hash(&trainer);
    let mut groups = world.step_groups(0, trainer.policy());
    for group in &mut groups {
        for sample in 0..group.samples.len() {
            *group = with_parts(group.clone(), sample, |parts| parts.verdict.reward = 1.0);
        }
    }
    let (report, figures) = train(&world, &mut trainer, &groups);
    assert_eq!((report.tokens, report.loss, report.grad_norm), (0, 0.0, 0.0));
    let tally = figures.tally;
    assert_eq!((tally.groups_trained, tally.groups_zero_variance), (0.0, 2.0));
    assert_eq!((trainer.steps_taken(), trainer.optimizer().step_count()), (1, 0));
    assert_eq!(hash(&trainer), before);
}

#[test]
fn supervised_steps_lower_the_loss() {
    let world = Miniature::with(|s| {
        s.train.objective = Objective::Sft;
        s.train.steps = 10;
        s.train.learning_rate = 3e-3;
    });
    let mut trainer = trainer(&world);
    let examples: Vec<Example> =
        (0..8).map(|id| example(&world.task, &world.problem(id)).unwrap()).collect();
    let losses: Vec<f64> =
        (0..10).map(|_| trainer.sft_step(&examples, GO_ON).unwrap().unwrap().loss).collect();
    let uniform = (world.files.config.vocab_size as f64).ln();
    assert!((losses[0] - uniform).abs() < 0.5, "a fresh model guesses: {losses:?}");
    assert!(losses[9] < 0.7 * losses[0], "{losses:?}");
}

/// What comes of a trainer that is written to a checkpoint and read back into a new one.
fn saved_and_restored(world: &Miniature, trainer: &mut Trainer) -> Trainer {
    let dir = tempfile::tempdir().unwrap();
    let mut restored = trainer_of(world, Box::new(Solo::new(Generation(2))));
    restored.restore(&saved(world, trainer, dir.path())).unwrap();
    restored
}

fn saved(world: &Miniature, trainer: &mut Trainer, dir: &Path) -> Checkpoint {
    let store = CheckpointStore::open(dir.to_owned(), 1).unwrap();
    let version = PolicyVersion::new(1, trainer.steps_taken());
    let state = State::new(1, version, 2, world.settings.seed);
    let (texts, weights) = (world.files.texts().unwrap(), trainer.weights().unwrap());
    let contents = trainer.contents(state, Arc::new(texts), Arc::new(weights)).unwrap();
    store.write(contents).unwrap();
    load_checkpoint(&store.path(version.step)).unwrap()
}

/// Both trainers take the next step to the same bits.
fn go_on_alike(world: &Miniature, one: &mut Trainer, other: &mut Trainer) {
    let next = world.step_groups(one.steps_taken(), one.policy());
    let (a, b) = (train(world, one, &next).0, train(world, other, &next).0);
    assert!(a.stats.kl_to_start() > 0.0, "the reference is the run's start");
    assert_eq!((a.loss, a.grad_norm, a.stats), (b.loss, b.grad_norm, b.stats));
    assert_eq!(hash(one), hash(other));
}

#[test]
fn a_restored_trainer_takes_bitwise_the_same_next_step() {
    let world = Miniature::with(|s| s.reward.truncated = TruncatedReward::Mask);
    let mut trainer = trainer(&world);
    let groups = world.step_groups(0, trainer.policy());
    train(&world, &mut trainer, &groups);
    let mut restored = saved_and_restored(&world, &mut trainer);
    assert_eq!((restored.steps_taken(), hash(&restored)), (1, hash(&trainer)));
    go_on_alike(&world, &mut trainer, &mut restored);
}

#[test]
fn an_abandoned_step_leaves_everything_as_it_was() {
    let world = Miniature::small();
    let mut trainer = trainer(&world);
    let (before, groups) = (hash(&trainer), world.step_groups(0, trainer.policy()));
    let done = train_on_groups(&mut trainer, &groups, &world.settings, &|| true).unwrap();
    assert_eq!(done.map(|_| ()), None);
    assert_eq!((trainer.steps_taken(), hash(&trainer)), (0, before));
}

#[test]
fn numbers_that_are_gone_stop_the_step_and_are_never_published() {
    let world = Miniature::small();
    let mut trainer = trainer(&world);
    let groups = world.step_groups(0, trainer.policy());
    let (_, var) = trainer.optimizer.parameters().iter().next().unwrap();
    var.set(&(var.as_tensor() * f64::NAN).unwrap()).unwrap();
    let failed = train_on_groups(&mut trainer, &groups, &world.settings, GO_ON);
    let failed = failed.expect_err("must stop");
    assert!(failed.is::<NotFinite>(), "the coordinator is told of it");
    let text = format!("{failed:#}");
    assert!(text.contains("training has diverged") && text.contains("NaN"), "{text}");
    let failed = trainer.weights().unwrap_err();
    assert!(failed.is::<NotFinite>(), "{failed}");
    assert!(failed.to_string().contains("no longer finite"), "{failed}");
}

#[test]
fn reinforce_learns_from_successes_only() {
    let world = Miniature::with(|s| s.train.objective = Objective::Reinforce);
    let mut trainer = trainer(&world);
    let groups = world.step_groups(0, trainer.policy());
    let successes = groups.iter().flat_map(|g| &g.samples).filter(|r| r.parts().verdict.correct);
    let tokens: usize = successes.map(|r| r.count(Author::Strong)).sum();
    let before = objective(&world, &trainer, &groups);
    let (report, _) = train(&world, &mut trainer, &groups);
    assert_eq!(report.tokens, tokens as u64);
    assert!(objective(&world, &trainer, &groups) > before);
}
