//! Batch, loss, gradients and optimiser together on a small causal model.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor, Var};
use types::Rollout;

use crate::fixtures::{RolloutText, rollout};
use crate::{
    AdamW, AdamWSettings, Error, Estimator, Example, Gradients, LossInputs, LossSettings,
    Parameters, PolicyBatch, RatioLevel, SftBatch, policy_loss, sft_loss, strong_tokens,
};

const CPU: Device = Device::Cpu;
const VOCAB: usize = 16;
const WIDTH: usize = 8;

/// Position t sees the mean of tanh of its own and all earlier embeddings, weighted by order.
struct ToyModel {
    parameters: Parameters,
    embedding: Var, // [V,D]
    head: Var,      // [V,D]
}

impl ToyModel {
    fn new(dtype: DType) -> Self {
        let var = |phase: f64| {
            let values: Vec<f64> =
                (0..VOCAB * WIDTH).map(|i| (i as f64 * 1.7 + phase).sin() * 0.8).collect();
            let tensor = Tensor::from_vec(values, (VOCAB, WIDTH), &CPU).unwrap();
            Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
        };
        let (embedding, head) = (var(0.0), var(0.4));
        let vars = [("embedding", embedding.clone()), ("head", head.clone())];
        let vars: BTreeMap<String, Var> =
            vars.into_iter().map(|(name, var)| (name.to_owned(), var)).collect();
        Self { parameters: Parameters::new(vars).unwrap(), embedding, head }
    }

    /// Logits of every position.
    fn logits(&self, tokens: &Tensor) -> Tensor {
        let (rows, width) = tokens.dims2().unwrap();
        let flat = tokens.flatten_all().unwrap();
        let states = self.embedding.index_select(&flat, 0).unwrap().tanh().unwrap();
        let states = states.reshape((rows, width, WIDTH)).unwrap(); // [B,T,D]
        let causal: Vec<f64> = (0..width * width)
            .map(|i| (i / width, i % width))
            .map(|(t, s)| if s <= t { 1.0 / (1.0 + (t - s) as f64) } else { 0.0 })
            .collect();
        let causal = Tensor::from_vec(causal, (1, width, width), &CPU).unwrap();
        let causal = causal.to_dtype(states.dtype()).unwrap().broadcast_as((rows, width, width));
        let states = causal.unwrap().contiguous().unwrap().matmul(&states).unwrap();
        let states = states.reshape((rows * width, WIDTH)).unwrap();
        states.matmul(&self.head.t().unwrap()).unwrap() // [B·T,V]
    }
}

/// Log-probabilities of the targets at the selected positions.
fn select(logits: &Tensor, select: &Tensor, targets: &Tensor) -> Tensor {
    let logits = logits.index_select(select, 0).unwrap(); // [N,V]
    let logprobs = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
    logprobs.gather(&targets.unsqueeze(1).unwrap(), 1).unwrap().squeeze(1).unwrap() // [N]
}

fn gradients(model: &ToyModel, batches: &[PolicyBatch], denominator: f64) -> Gradients {
    let settings = LossSettings { kl: 0.05, ..LossSettings::default() };
    let mut gradients = Gradients::zeros(&model.parameters).unwrap();
    for batch in batches {
        let logprobs = select(&model.logits(&batch.tokens), &batch.select, &batch.targets);
        let reference = (logprobs.detach() * 0.9).unwrap();
        let inputs = LossInputs {
            logprobs: &logprobs,
            reference: Some(&reference),
            columns: &batch.columns,
        };
        let output = policy_loss(&inputs, &settings, denominator).unwrap();
        gradients.accumulate(&model.parameters, &output.loss.backward().unwrap()).unwrap();
    }
    gradients
}

fn group() -> Vec<Rollout> {
    ["ppsswws", "psws", "pppsssssss", "pw", "ppss", "pws"]
        .iter()
        .enumerate()
        .map(|(i, authors)| rollout(RolloutText { authors, first_token: i as u32, step: 3 }))
        .collect()
}

#[test]
fn micro_batches_under_one_denominator_sum_to_the_whole_gradient() {
    let model = ToyModel::new(DType::F32);
    let rollouts = group();
    let weights = [1.1, -0.6, 0.3, 0.9, 0.0, -1.3];
    let weighted: Vec<(&Rollout, f32)> = rollouts.iter().zip(weights).collect();
    let denominator: usize = weighted.iter().map(|(r, w)| strong_tokens(r, *w)).sum();
    assert_eq!(denominator, 3 + 2 + 7 + 1);
    let build = |chosen: &[(&Rollout, f32)]| PolicyBatch::build(chosen, 3, &CPU).unwrap().unwrap();
    let whole = gradients(&model, &[build(&weighted)], denominator as f64);
    let plan = PolicyBatch::plan(&weighted, 9);
    assert_eq!(plan, [vec![2], vec![0], vec![1, 5]]);
    let batches: Vec<PolicyBatch> = plan
        .iter()
        .map(|indices| build(&indices.iter().map(|i| weighted[*i]).collect::<Vec<_>>()))
        .collect();
    let parts = gradients(&model, &batches, denominator as f64);
    assert!(whole.global_norm().unwrap() > 1e-2);
    for (part, whole) in parts.flat().unwrap().iter().zip(whole.flat().unwrap().iter()) {
        assert!((part - whole).abs() < 1e-5, "{part} for {whole}");
    }
}

#[test]
fn weak_and_prompt_positions_get_no_gradient() {
    let rollout = rollout(RolloutText { authors: "ppswws", first_token: 2, step: 3 });
    let batch = PolicyBatch::build(&[(&rollout, 1.0)], 3, &CPU).unwrap().unwrap();
    let model = ToyModel::new(DType::F64);
    let logits = Var::from_tensor(&model.logits(&batch.tokens)).unwrap(); // [5,V]
    let logprobs = select(&logits, &batch.select, &batch.targets);
    let inputs = LossInputs { logprobs: &logprobs, reference: None, columns: &batch.columns };
    let settings = LossSettings { ratio: RatioLevel::Off, ..LossSettings::default() };
    let loss = policy_loss(&inputs, &settings, 2.0).unwrap().loss;
    let gradient = loss.backward().unwrap().remove(&logits).unwrap();
    let rows = gradient.abs().unwrap().sum(1).unwrap().to_vec1::<f64>().unwrap();
    let learnt: Vec<bool> = rows.iter().map(|row| *row > 0.0).collect();
    assert_eq!(learnt, [false, true, false, false, true], "predictors of strong tokens only");
}

#[test]
fn flipping_one_author_takes_one_token_out_of_loss_and_denominator() {
    let model = ToyModel::new(DType::F64);
    let settings = LossSettings { ratio: RatioLevel::Off, ..LossSettings::default() };
    let run = |authors: &str| {
        let rollout = rollout(RolloutText { authors, first_token: 2, step: 3 });
        let batch = PolicyBatch::build(&[(&rollout, 1.0)], 3, &CPU).unwrap().unwrap();
        let logprobs = select(&model.logits(&batch.tokens), &batch.select, &batch.targets);
        let inputs = LossInputs { logprobs: &logprobs, reference: None, columns: &batch.columns };
        let output = policy_loss(&inputs, &settings, strong_tokens(&rollout, 1.0) as f64).unwrap();
        (output, logprobs.to_vec1::<f64>().unwrap())
    };
    let (full, logprobs) = run("psss");
    let (flipped, kept) = run("psws");
    assert_eq!((full.stats.tokens(), flipped.stats.tokens()), (3.0, 2.0));
    assert_eq!(kept, [logprobs[0], logprobs[2]]);
    assert!((full.value * 3.0 - flipped.value * 2.0 + logprobs[1]).abs() < 1e-12);
}

#[test]
fn reinforce_has_no_token_of_a_failure_in_loss_or_denominator() {
    let rollouts = group();
    let rewards = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
    let group = Estimator::ReinforceSuccesses.weights(&rewards);
    let weighted: Vec<(&Rollout, f32)> = rollouts.iter().zip(group.weights).collect();
    let batch = PolicyBatch::build(&weighted, 3, &CPU).unwrap().unwrap();
    assert_eq!(batch.tokens.dims(), [2, 3]);
    assert_eq!(batch.columns.weights, [1.0; 4]);
    let denominator: usize = weighted.iter().map(|(r, w)| strong_tokens(r, *w)).sum();
    let model = ToyModel::new(DType::F64);
    let logprobs = select(&model.logits(&batch.tokens), &batch.select, &batch.targets);
    let inputs = LossInputs { logprobs: &logprobs, reference: None, columns: &batch.columns };
    let settings = LossSettings { ratio: RatioLevel::Off, ..LossSettings::default() };
    let output = policy_loss(&inputs, &settings, denominator as f64).unwrap();
    let mean = logprobs.mean_all().unwrap().to_scalar::<f64>().unwrap();
    assert!((output.value + mean).abs() < 1e-12);
}

/// Sixty updates with clipping; the mean negative log-likelihood before and after.
fn train(model: &ToyModel, batch: &SftBatch) -> Result<(f64, f64), Error> {
    let mut optimizer = AdamW::new(model.parameters.clone(), AdamWSettings::default()).unwrap();
    let mut losses = Vec::new();
    for _ in 0..60 {
        let logprobs = select(&model.logits(&batch.tokens), &batch.select, &batch.targets);
        let output = sft_loss(&logprobs, logprobs.elem_count() as f64)?;
        losses.push(output.nll / output.tokens as f64);
        let mut gradients = Gradients::zeros(&model.parameters).unwrap();
        gradients.accumulate(&model.parameters, &output.loss.backward()?)?;
        gradients.clip_global_norm(1.0)?;
        optimizer.step(&gradients, 0.05)?;
    }
    Ok((losses[0], losses[59]))
}

#[test]
fn supervised_training_learns_the_examples() {
    for dtype in [DType::F32, DType::F64] {
        let model = ToyModel::new(dtype);
        let example = |start: u32| Example { tokens: (start..start + 5).collect(), prompt_len: 1 };
        let examples = [example(0), example(4), example(9)];
        let batch = SftBatch::build(&examples.each_ref(), &CPU).unwrap().unwrap();
        let (before, after) = train(&model, &batch).unwrap();
        assert!(before > 1.0 && after < 0.1, "{dtype:?}: {before} to {after}");
    }
}
