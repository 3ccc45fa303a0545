//! What saves memory changes nothing else: micro-batches, chunks, blocks.

use super::*;

/// The gradient of the first step, summed over its micro-batches, before clipping.
fn gradient(world: &Miniature) -> (Vec<f32>, f64) {
    let mut trainer = trainer(world);
    let groups = world.step_groups(0, trainer.policy());
    let rollouts: Vec<(&Rollout, f32)> = groups
        .iter()
        .flat_map(|group| &group.samples)
        .zip([1.0, -0.5, 0.7, -1.2, 0.4, -0.1, 0.9, -1.0])
        .collect();
    let count = rollouts.iter().map(|(rollout, w)| strong_tokens(rollout, *w)).sum::<usize>();
    let mut sums = Sums::new(&trainer.optimizer).unwrap();
    let plan = PolicyBatch::plan(&rollouts, trainer.train.micro_batch_tokens as usize);
    for indices in &plan {
        let chosen: Vec<(&Rollout, f32)> = indices.iter().map(|i| rollouts[*i]).collect();
        let batch = PolicyBatch::build(&chosen, 0, trainer.policy.device()).unwrap().unwrap();
        let (pass, loss) = trainer.policy_forward(&batch, count as f64, &mut sums.stats).unwrap();
        sums.backward(trainer.optimizer.parameters(), (pass, &loss), Instant::now()).unwrap();
    }
    assert_eq!(plan.len() > 1, world.settings.train.micro_batch_tokens < 1000);
    trainer.steps_taken = 0;
    (sums.gradients.flat().unwrap().to_vec(), sums.stats.loss)
}

fn check(change: impl FnOnce(&mut Settings)) {
    let (expected, loss) = gradient(&Miniature::small());
    let (found, other) = gradient(&Miniature::with(change));
    assert!(expected.iter().any(|g| g.abs() > 1e-2), "there is a gradient");
    assert!((loss - other).abs() < 1e-5 * loss.abs().max(1.0), "{loss} and {other}");
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
    }
}

#[test]
fn micro_batches_sum_to_the_gradient_of_one_batch() {
    check(|s| s.train.micro_batch_tokens = 100);
}

#[test]
fn chunks_of_positions_sum_to_the_gradient_of_all() {
    check(|s| s.train.logprob_chunk_tokens = 7);
}

#[test]
fn blocks_give_the_gradient_of_the_whole_graph() {
    check(|s| s.train.recompute_blocks = true);
}

#[test]
fn all_of_it_together_gives_the_same_step() {
    let plain = Miniature::small();
    let saving = Miniature::with(|s| {
        s.train.micro_batch_tokens = 100;
        s.train.logprob_chunk_tokens = 5;
        s.train.recompute_blocks = true;
    });
    let (mut one, mut other) = (trainer(&plain), trainer(&saving));
    let groups = plain.step_groups(0, one.policy());
    let (one, other) = (train(&plain, &mut one, &groups).0, train(&saving, &mut other, &groups).0);
    assert_eq!(one.tokens, other.tokens);
    assert!((one.loss - other.loss).abs() < 1e-6, "{} and {}", one.loss, other.loss);
    assert!((one.grad_norm / other.grad_norm - 1.0).abs() < 1e-5, "{one:?} and {other:?}");
}

#[test]
fn supervised_steps_go_by_blocks_too() {
    let losses = |by_blocks: bool| {
        let world = Miniature::with(|s| {
            s.train.objective = Objective::Sft;
            s.train.recompute_blocks = by_blocks;
            s.train.learning_rate = 3e-3;
        });
        let examples: Vec<Example> =
            (0..8).map(|id| example(&world.task, &world.problem(id)).unwrap()).collect();
        let mut trainer = trainer(&world);
        [0; 3].map(|_| trainer.sft_step(&examples, GO_ON).unwrap().unwrap().loss)
    };
    let (plain, by_blocks) = (losses(false), losses(true));
    for (plain, by_blocks) in plain.iter().zip(by_blocks) {
        assert!((plain - by_blocks).abs() < 1e-5, "{plain} and {by_blocks}");
    }
}
