//! Gradients of all variables, and updates by them, on the device and on the CPU.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use grpo::{AdamW, AdamWSettings, Gradients, Parameters};
use model::{Decoder, ModelConfig, Scoring};

use crate::tiny::{configs, distance, ids, numbers, tensors, values};

/// Norm before clipping, clipped gradients, weights after two updates.
fn two_steps(config: &ModelConfig, device: &Device) -> (f64, Vec<f32>, Vec<f32>) {
    let vars: BTreeMap<String, Var> = tensors(config, device)
        .into_iter()
        .map(|(name, tensor)| (name, Var::from_tensor(&tensor).unwrap()))
        .collect();
    let tracked = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let decoder = Decoder::new(config.clone(), tracked).unwrap();
    let parameters = Parameters::new(vars).unwrap();
    let settings = AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() };
    let mut optimizer = AdamW::new(parameters.clone(), settings).unwrap();
    let (mut norm, mut first) = (0.0, Vec::new());
    for step in 0..2 {
        let tokens = Tensor::from_vec(ids(7 + step, 90), (3, 30), device).unwrap();
        let select = Tensor::arange(0u32, 89, device).unwrap();
        let mut targets = ids(20 + step, 89);
        (targets[4], targets[5]) = (3, 7); // ends, which are merged
        let targets = Tensor::new(targets, device).unwrap();
        let scoring = Scoring { temperature: 0.9, stops: config.stops.clone(), chunk_tokens: 32 };
        let logprobs = decoder.logprobs(&tokens, &select, &targets, &scoring).unwrap();
        let weights: Vec<f32> = numbers(30 + step, 89).iter().map(|x| *x as f32).collect();
        let weights = Tensor::new(weights, device).unwrap();
        let loss = (logprobs * weights).unwrap().sum_all().unwrap();
        let mut gradients = Gradients::zeros(&parameters).unwrap();
        gradients.accumulate(&parameters, &loss.backward().unwrap()).unwrap();
        norm = gradients.clip_global_norm(5.0).unwrap();
        if step == 0 {
            first = gradients.flat().unwrap().into_owned();
        }
        optimizer.step(&gradients, 1e-2).unwrap();
    }
    let after = parameters.iter().flat_map(|(_, var)| values(var.as_tensor())).collect();
    (norm, first, after)
}

#[test]
fn gradients_and_updates_agree_with_the_cpus() {
    let device = crate::device();
    for config in configs() {
        let here = two_steps(&config, &Device::Cpu);
        let there = two_steps(&config, &device);
        let off = distance(&here.1, &there.1);
        assert!(off <= 1e-4, "gradients, {:?}: {off:e}", config.family);
        let off = (here.0 / there.0 - 1.0).abs();
        assert!(off <= 1e-4, "norm, {:?}: {} and {}", config.family, here.0, there.0);
        // A gradient near 0 may have either sign, and Adam's first update is its sign.
        let close = here.2.iter().zip(&there.2).filter(|(a, b)| (*a - *b).abs() <= 1e-3).count();
        let share = close as f64 / here.2.len() as f64;
        assert!(share >= 0.999, "weights, {:?}: only {share} are close", config.family);
    }
}
