//! Training of adapters: the base stays, what is published is merged, a checkpoint goes on exactly.

use model::Tensors;

use super::*;

fn adapted(by_blocks: bool) -> Miniature {
    Miniature::with(|s| {
        s.train.lora.rank = 4;
        s.train.lora.alpha = 8.0;
        s.train.recompute_blocks = by_blocks;
    })
}

fn published(trainer: &Trainer) -> Tensors {
    let placement = model::Placement::cpu(candle_core::DType::F32);
    model::from_safetensors(&trainer.weights().unwrap(), "published", &placement).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let off = a.sub(b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    off.to_scalar().unwrap()
}

#[test]
fn before_the_first_step_the_start_is_published() {
    let world = adapted(false);
    let trainer = trainer(&world);
    assert_eq!(trainer.weights().unwrap(), model::to_safetensors(&world.files.tensors).unwrap());
    // A and B of seven layers per block; the base is no variable.
    let config = &world.files.config;
    let names: Vec<&str> = trainer.optimizer().parameters().iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2 * 7 * config.layers);
    assert!(names.iter().all(|name| name.contains(".lora_")), "{names:?}");
}

#[test]
fn a_step_moves_the_merged_weights_and_not_the_base() {
    for by_blocks in [false, true] {
        let world = adapted(by_blocks);
        let mut trainer = trainer(&world);
        let groups = world.step_groups(0, trainer.policy());
        let before = objective(&world, &trainer, &groups);
        let (report, _) = train(&world, &mut trainer, &groups);
        assert!(report.stats.kl_to_start() < 1e-6, "the start is the base");
        for step in 1..3 {
            let next = world.step_groups(step, trainer.policy());
            train(&world, &mut trainer, &next);
        }
        assert!(objective(&world, &trainer, &groups) > before + 1e-3);
        for (name, tensor) in trainer.policy().tensors() {
            assert_eq!(distance(tensor, &world.files.tensors[name]), 0.0, "{name} is frozen");
        }
        let merged = published(&trainer);
        for (name, tensor) in &merged {
            let moved = distance(tensor, &world.files.tensors[name]) > 1e-6;
            assert_eq!(moved, name.contains("_proj"), "{name}");
        }
        // Actors compute with the merged weights what the learner computes with adapters.
        let actor = Decoder::new(world.files.config.clone(), merged).unwrap();
        let rollout = &groups[0].samples[0];
        let pair = (world.logprobs(&actor, rollout), world.logprobs(trainer.policy(), rollout));
        let pairs = pair.0.iter().zip(&pair.1);
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5), "{pair:?}");
    }
}

#[test]
fn both_passes_take_the_same_steps() {
    let (graph, blocks) = (adapted(false), adapted(true));
    let (mut one, mut other) = (trainer(&graph), trainer(&blocks));
    for step in 0..2 {
        let groups = graph.step_groups(step, one.policy());
        let (a, b) = (train(&graph, &mut one, &groups).0, train(&blocks, &mut other, &groups).0);
        assert!((a.loss - b.loss).abs() < 1e-6 && a.grad_norm > 0.0);
        assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-4, "{a:?} and {b:?}");
    }
}

/// With numbers that 16 bits hold exactly it is the same run.
#[test]
fn a_base_in_16_bits_takes_bitwise_the_same_steps() {
    use candle_core::DType::{BF16, F32};
    for by_blocks in [false, true] {
        let (mut wide, mut narrow) = (adapted(by_blocks), adapted(by_blocks));
        for (name, tensor) in &mut wide.files.tensors {
            let rounded = tensor.to_dtype(BF16).unwrap();
            *tensor = rounded.to_dtype(F32).unwrap();
            if tensor.dims().len() == 2 {
                narrow.files.tensors.insert(name.clone(), rounded);
            } else {
                narrow.files.tensors.insert(name.clone(), tensor.clone());
            }
        }
        let (mut one, mut other) = (trainer(&wide), trainer(&narrow));
        assert_eq!(hash(&one), hash(&other), "the start is published in f32");
        for step in 0..2 {
            let groups = wide.step_groups(step, one.policy());
            let (a, b) = (train(&wide, &mut one, &groups).0, train(&narrow, &mut other, &groups).0);
            assert!(a.loss == b.loss && a.grad_norm == b.grad_norm && a.grad_norm > 0.0);
        }
        assert_eq!(hash(&one), hash(&other));
        assert!(other.policy().tensors().values().any(|tensor| tensor.dtype() == BF16));
        saved_and_restored(&narrow, &mut other);
    }
}

#[test]
fn a_restored_adapter_takes_bitwise_the_same_next_step() {
    let world = adapted(false);
    let mut trainer = trainer(&world);
    let groups = world.step_groups(0, trainer.policy());
    train(&world, &mut trainer, &groups);
    let mut restored = saved_and_restored(&world, &mut trainer);
    assert_eq!(hash(&restored), hash(&trainer));
    go_on_alike(&world, &mut trainer, &mut restored);
}

#[test]
fn a_checkpoint_of_other_adapters_is_refused_by_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let (world, whole) = (adapted(false), Miniature::small());
    let checkpoint = saved(&world, &mut trainer(&world), dir.path());
    let refused = |world: &Miniature, checkpoint: &Checkpoint| {
        trainer(world).restore(checkpoint).unwrap_err().to_string()
    };
    let text = refused(&whole, &checkpoint);
    let named = "train.lora.rank=0 but the checkpoint was made with train.lora.rank=4, \
                 train.lora.alpha=8, train.lora.targets=down_proj,";
    assert!(text.starts_with(named), "{text}");
    let other = Miniature::with(|s| (s.train.lora.rank, s.train.lora.alpha) = (4, 16.0));
    assert!(refused(&other, &checkpoint).contains("train.lora.alpha=16"));
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = saved(&whole, &mut trainer(&whole), dir.path());
    assert!(refused(&world, &checkpoint).ends_with("train.lora.rank=0: set it as it was"));
}

#[test]
fn a_checkpoint_of_adapters_to_other_weights_is_refused_by_the_weight() {
    let dir = tempfile::tempdir().unwrap();
    let world = adapted(false);
    let checkpoint = saved(&world, &mut trainer(&world), dir.path());
    let mut other = adapted(false);
    let name = "model.layers.1.mlp.up_proj.weight";
    let moved = (&other.files.tensors[name] + 0.25).unwrap();
    other.files.tensors.insert(name.to_owned(), moved);
    let refused = trainer(&other).restore(&checkpoint).unwrap_err();
    let text = format!("{refused:#}");
    assert!(text.starts_with("the adapters of step 0 were trained on other weights"), "{text}");
    assert!(text.contains(&format!("{name} is off by 0.25")), "{text}");
}

#[test]
fn targets_choose_the_layers() {
    let world = Miniature::with(|s| {
        s.train.lora.rank = 2;
        s.train.lora.targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    });
    let trainer = trainer(&world);
    let names: Vec<&str> = trainer.optimizer().parameters().iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2 * 2 * world.files.config.layers);
    let chosen = |name: &&str| name.contains("q_proj") || name.contains("down_proj");
    assert!(names.iter().all(chosen), "{names:?}");
}
