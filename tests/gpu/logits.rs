//! Logits of the training forward and of the ragged engine on the device and on the CPU.

use candle_core::{DType, Device, Tensor};
use model::{Decoder, RaggedEngine, RowInput, Scoring, Tensors, Want};

use crate::tiny::{self, configs, decoder, distance, ids, values};

/// Sums of a few hundred products in another order.
const TOLERANCE: f32 = 2e-4;

/// Logits of three texts that advance together by chunks of different size, and of a copied row.
fn engine_logits(decoder: &Decoder) -> Vec<f32> {
    let texts = [ids(1, 50), ids(2, 23), ids(3, 37)];
    let mut engine = RaggedEngine::new(decoder.clone(), 4, 64).unwrap();
    let sizes = [[20, 1, 13, 16], [1, 1, 20, 1], [30, 5, 1, 1]];
    let (mut done, mut found) = ([0; 3], Vec::new());
    for round in 0..4 {
        let inputs = [0, 1, 2].map(|i| {
            let tokens = &texts[i][done[i]..done[i] + sizes[i][round]];
            let want = match (round, i) {
                (0, _) => Want::Nothing, // no row of anything is left of such a step
                (_, 1) => Want::All,
                _ => Want::Last,
            };
            RowInput { row: i, tokens, want }
        });
        found.extend(values(&engine.step(&inputs).unwrap().logits().unwrap()));
        (0..3).for_each(|i| done[i] += sizes[i][round]);
    }
    engine.copy_row(0, 3).unwrap();
    engine.truncate(3, 11).unwrap();
    let more = ids(4, 6);
    let input = RowInput { row: 3, tokens: &more, want: Want::All };
    found.extend(values(&engine.step(&[input]).unwrap().logits().unwrap()));
    found
}

fn training_logits(decoder: &Decoder) -> Vec<f32> {
    let device = decoder.device();
    let tokens = Tensor::from_vec(ids(5, 80), (2, 40), device).unwrap();
    let select = Tensor::new(&[0u32, 79, 17, 40, 39], device).unwrap();
    values(&decoder.logits(&tokens, &select).unwrap())
}

#[test]
fn both_forwards_agree_with_the_cpus() {
    let device = crate::device();
    for config in configs() {
        let (here, there) = (decoder(&config, &Device::Cpu), decoder(&config, &device));
        let off = distance(&training_logits(&here), &training_logits(&there));
        assert!(off <= TOLERANCE, "training, {:?}: {off:e}", config.family);
        let off = distance(&engine_logits(&here), &engine_logits(&there));
        assert!(off <= TOLERANCE, "engine, {:?}: {off:e}", config.family);
    }
}

/// The actor samples by the engine with rounded weights, the learner scores by the training forward
/// with rounded uses of its masters. The bound is what the issue of this comparison allows.
#[test]
fn actor_and_learner_agree_in_half_precision() {
    let device = crate::device();
    if device.is_cpu() {
        return; // it computes in f32 only
    }
    for config in configs() {
        let masters = decoder(&config, &device);
        let rounded: Tensors = masters
            .tensors()
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::BF16).unwrap()))
            .collect();
        let actor = Decoder::new(config.clone(), rounded).unwrap();
        let learner = masters.computing_in(DType::BF16);
        let text = ids(6, 60);
        let mut engine = RaggedEngine::new(actor.clone(), 1, 64).unwrap();
        let input = RowInput { row: 0, tokens: &text[..59], want: Want::All };
        let logits = engine.step(&[input]).unwrap().logits().unwrap();
        let targets = Tensor::new(&text[1..], &device).unwrap();
        let sampled = model::logprobs(&logits, &targets, 1.0, &config.stops).unwrap();
        let tokens = Tensor::from_vec(text.clone(), (1, 60), &device).unwrap();
        let select = Tensor::arange(0u32, 59, &device).unwrap();
        let scoring = Scoring { temperature: 1.0, stops: config.stops.clone(), chunk_tokens: 16 };
        let scored = learner.logprobs(&tokens, &select, &targets, &scoring).unwrap();
        let (sampled, scored) = (tiny::values(&sampled), tiny::values(&scored));
        let sum: f32 = sampled.iter().zip(&scored).map(|(a, b)| (a - b).abs()).sum();
        let mean = sum / sampled.len() as f32;
        println!("{:?}: mean |difference| of log-probabilities in bf16: {mean:.6}", config.family);
        assert!(mean <= 0.0104, "{:?}: {mean}", config.family);
    }
}
