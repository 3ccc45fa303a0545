//! Log-probabilities by chunks are those of the whole logits, and so are their gradients.

use candle_core::{DType, Device, Tensor, Var};
use model::{Decoder, ModelConfig, Scoring, Tensors, logprobs};

use crate::tiny;

const B: usize = 3;
const T: usize = 9;
const STOPS: [u32; 3] = [3, 7, 11];

/// Tokens `[B,T]`, selected positions and targets `[N]`; stops are among the targets.
pub(crate) fn inputs() -> (Tensor, Tensor, Tensor) {
    let tokens = Tensor::from_vec(tiny::ids(50, B * T), (B, T), &Device::Cpu).unwrap();
    let select: Vec<u32> = vec![4, 0, 7, 11, 10, 26, 20, 20, 23];
    let targets: Vec<u32> = vec![3, 5, 7, 0, 22, 11, 3, 9, 1];
    let tensor = |ids: Vec<u32>| Tensor::new(ids, &Device::Cpu).unwrap();
    (tokens, tensor(select), tensor(targets))
}

pub(crate) fn scoring(temperature: f64, stops: &[u32], chunk_tokens: usize) -> Scoring {
    Scoring { temperature, stops: stops.to_vec(), chunk_tokens }
}

/// Values, and the gradient of Σ weight · log-probability towards every variable, by name.
type Outcome = (Vec<f64>, Vec<(String, Vec<f64>)>);

pub(crate) fn weights(n: usize, dtype: DType) -> Tensor {
    Tensor::new(tiny::numbers(60, n), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The same weights as variables and as a decoder of them.
pub(crate) fn variables(config: &ModelConfig, dtype: DType) -> (Vec<(String, Var)>, Decoder) {
    let start = tiny::tensors(config, dtype);
    let vars: Vec<(String, Var)> =
        start.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
    let tracked: Tensors = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    (vars, Decoder::new(config.clone(), tracked).unwrap())
}

fn outcome(config: &ModelConfig, dtype: DType, of: impl Fn(&Decoder) -> Tensor) -> Outcome {
    let (vars, decoder) = variables(config, dtype);
    let values = of(&decoder);
    let weights = weights(values.elem_count(), dtype);
    let grads = values.mul(&weights).unwrap().sum_all().unwrap().backward().unwrap();
    let grads = vars.iter().map(|(name, var)| {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        (name.clone(), flat(grad))
    });
    (flat(&values), grads.collect())
}

pub(crate) fn close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(off <= tolerance * expected.abs().max(1.0), "{what}: {found} for {expected}");
    }
}

fn check(config: &ModelConfig, dtype: DType, tolerance: f64) {
    let (tokens, select, targets) = inputs();
    let last = config.ids as u32 - 1;
    let (tokens, targets) = (tokens.minimum(last).unwrap(), targets.minimum(last).unwrap());
    for (temperature, stops) in [(1.0, &STOPS[..]), (0.7, &STOPS[..1]), (1.3, &[])] {
        let expected = outcome(config, dtype, |decoder| {
            let logits = decoder.logits(&tokens, &select).unwrap();
            logprobs(&logits, &targets, temperature, stops).unwrap()
        });
        for chunk in [1, 4, 9, 100] {
            let scoring = scoring(temperature, stops, chunk);
            let found = outcome(config, dtype, |decoder| {
                decoder.logprobs(&tokens, &select, &targets, &scoring).unwrap()
            });
            close(&found.0, &expected.0, tolerance, "values");
            for ((name, found), (_, expected)) in found.1.iter().zip(&expected.1) {
                close(found, expected, tolerance, &format!("{name}, {chunk} rows"));
            }
        }
    }
}

/// Whole vocabularies, tied and not, and ones whose last rows are padding.
fn check_all(dtype: DType, tolerance: f64) {
    for kind in [tiny::QWEN2, tiny::GEMMA3] {
        let mut config = tiny::config(kind);
        check(&config, dtype, tolerance);
        config.ids = 20;
        check(&config, dtype, tolerance);
    }
}

#[test]
fn chunks_equal_the_whole_in_f32() {
    check_all(DType::F32, 1e-5);
}

#[test]
fn chunks_equal_the_whole_in_f64() {
    check_all(DType::F64, 1e-12);
}

#[test]
fn a_token_beyond_all_reach_keeps_its_finite_logarithm() {
    let (vars, decoder) = variables(&tiny::config(tiny::KINDS[4]), DType::F32);
    let (_, embedding) = vars.iter().find(|(name, _)| name.contains("embed")).unwrap();
    embedding.set(&(embedding.as_tensor() * 200.0).unwrap()).unwrap();
    let (tokens, select, targets) = inputs();
    let found = decoder.logprobs(&tokens, &select, &targets, &scoring(1.0, &[], 4)).unwrap();
    let logits = decoder.logits(&tokens, &select).unwrap();
    let expected = flat(&logprobs(&logits, &targets, 1.0, &[]).unwrap());
    assert!(expected.iter().any(|logprob| *logprob < -200.0), "{expected:?}");
    close(&flat(&found), &expected, 1e-5, "far logits");
}

#[test]
fn what_cannot_be_scored_is_named() {
    let (_, decoder) = variables(&tiny::config(tiny::KINDS[3]), DType::F32);
    let (tokens, select, targets) = inputs();
    let error = |targets: &Tensor, scoring: &Scoring| {
        decoder.logprobs(&tokens, &select, targets, scoring).unwrap_err().to_string()
    };
    let text = error(&targets, &scoring(0.0, &[], 4));
    assert!(text.contains("positive temperature, not 0"), "{text}");
    let far = Tensor::new(&[1u32, 2, 3, 4, 23, 6, 7, 8, 9], &Device::Cpu).unwrap();
    assert_eq!(error(&far, &scoring(1.0, &[], 4)), "target 23 is outside the 23 tokens");
}
