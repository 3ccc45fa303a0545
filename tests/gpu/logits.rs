//! Logits of the training forward and of the ragged engine on the device and on the CPU.

use candle_core::{DType, Device, Tensor};
use model::{Decoder, ModelSource, Placement, RaggedEngine, RowInput, Scoring, Tensors, Want};

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

/// Log-probabilities of a text's tokens after the first, by the engine with these weights.
fn sampled(decoder: &Decoder, text: &[u32], stops: &[u32]) -> Tensor {
    let mut engine = RaggedEngine::new(decoder.clone(), 1, 64).unwrap();
    let read = &text[..text.len() - 1];
    let input = RowInput { row: 0, tokens: read, want: Want::All };
    let logits = engine.step(&[input]).unwrap().logits().unwrap();
    let targets = Tensor::new(&text[1..], decoder.device()).unwrap();
    model::logprobs(&logits, &targets, 1.0, stops).unwrap()
}

fn in_bf16(decoder: &Decoder, device: &Device) -> Decoder {
    let half = |(name, tensor): (&String, &Tensor)| {
        (name.clone(), tensor.to_dtype(DType::BF16).unwrap().to_device(device).unwrap())
    };
    let tensors: Tensors = decoder.tensors().iter().map(half).collect();
    Decoder::new(decoder.config().clone(), tensors).unwrap()
}

fn mean_difference(a: &Tensor, b: &Tensor) -> f32 {
    let (a, b) = (tiny::values(a), tiny::values(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

/// What rounding to 8 bits does to these models, of a log-probability; what computes something else is
/// off by more than a fifth.
const ROUNDING: f32 = 0.01;

#[test]
fn half_precision_is_the_cpus_f32_but_for_rounding() {
    let device = crate::device();
    if device.is_cpu() {
        return; // it computes in f32 only
    }
    let source = ModelSource::parse("builtin:miniature-strong").unwrap();
    let trained = source.load(0, &Placement::cpu(DType::F32)).unwrap().decoder().unwrap();
    let mut models: Vec<Decoder> = configs().iter().map(|c| decoder(c, &Device::Cpu)).collect();
    models.push(trained);
    for here in models {
        let config = here.config();
        let text: Vec<u32> = ids(6, 60).iter().map(|id| id % 140).collect();
        let there = in_bf16(&here, &device);
        let wide = sampled(&here, &text, &config.stops);
        let half = sampled(&there, &text, &config.stops);
        let share =
            mean_difference(&wide, &half) / mean_difference(&wide, &wide.zeros_like().unwrap());
        println!("{:?}, {} ids: {share:.6} off f32", config.family, config.ids);
        assert!(share <= ROUNDING, "{:?}: {share}", config.family);
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
        let text = ids(6, 60);
        let sampled = sampled(&in_bf16(&masters, &device), &text, &config.stops);
        let learner = masters.computing_in(DType::BF16);
        let targets = Tensor::new(&text[1..], &device).unwrap();
        let tokens = Tensor::from_vec(text.clone(), (1, 60), &device).unwrap();
        let select = Tensor::arange(0u32, 59, &device).unwrap();
        let scoring = Scoring { temperature: 1.0, stops: config.stops.clone(), chunk_tokens: 16 };
        let scored = learner.logprobs(&tokens, &select, &targets, &scoring).unwrap();
        let mean = mean_difference(&sampled, &scored);
        println!("{:?}: mean |difference| of log-probabilities in bf16: {mean:.6}", config.family);
        assert!(mean <= 0.0104, "{:?}: {mean}", config.family);
    }
}
