//! Seeded random weights as safetensors files. Training them is the learner's.

use std::collections::HashSet;

use safetensors::tensor::{Dtype, TensorView};

use crate::draws::Draws;
use crate::lexicon::VOCAB_SIZE;
use crate::shape::{Role, Shape};

/// A tensor of independent normal deviates.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    pub mean: f64,
    /// 0 makes every element the mean.
    pub std: f64,
}

impl TensorSpec {
    #[must_use]
    pub fn new(name: impl Into<String>, shape: &[usize], mean: f64, std: f64) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), mean, std }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    #[error("tensor {0} is listed twice")]
    Repeated(String),
    #[error("the tensors do not make a safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
}

/// A safetensors file in f32. A tensor depends on the seed, its name and its own size only.
///
/// # Errors
/// Two tensors of one name, or a size that overflows.
pub fn random_safetensors(tensors: &[TensorSpec], seed: u64) -> Result<Vec<u8>, TensorsError> {
    let mut names = HashSet::new();
    if let Some(spec) = tensors.iter().find(|spec| !names.insert(&spec.name)) {
        return Err(TensorsError::Repeated(spec.name.clone()));
    }
    let data: Vec<Vec<u8>> = tensors.iter().map(|spec| elements(spec, seed)).collect();
    let views = tensors.iter().zip(&data).map(|(spec, bytes)| {
        let view = TensorView::new(Dtype::F32, spec.shape.clone(), bytes)?;
        Ok((spec.name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// Independent numbers in [0, 1) for one tensor; they depend on the seed, its name and its size only.
#[must_use]
pub fn uniform_elements(seed: u64, name: &str, count: usize) -> Vec<f64> {
    let mut draws = Draws::new(seed, name, count as u64);
    (0..count).map(|_| draws.uniform()).collect()
}

/// Where the miniature's supervised training starts. Embedding N(0, 1), head N(0, 0.02), matrices
/// N(0, width^-½), those that write into the residual stream half of that, norms 1.
#[must_use]
pub fn fresh_weights(role: Role, seed: u64) -> Vec<u8> {
    let specs = specs(role.shape());
    random_safetensors(&specs, seed).expect("the specified names differ and their sizes are small")
}

fn specs(shape: Shape) -> Vec<TensorSpec> {
    let Shape { width, layers, inner, .. } = shape;
    let std = (width as f64).powf(-0.5);
    let mut specs = vec![
        TensorSpec::new("model.embed_tokens.weight", &[VOCAB_SIZE, width], 0.0, 1.0),
        TensorSpec::new("model.norm.weight", &[width], 1.0, 0.0),
        TensorSpec::new("lm_head.weight", &[VOCAB_SIZE, width], 0.0, 0.02),
    ];
    for layer in 0..layers {
        let mut push = |name: &str, shape: &[usize], mean: f64, std: f64| {
            let name = format!("model.layers.{layer}.{name}.weight");
            specs.push(TensorSpec::new(name, shape, mean, std));
        };
        for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] {
            push(name, &[width, width], 0.0, std);
        }
        push("self_attn.o_proj", &[width, width], 0.0, std / 2.0);
        push("mlp.gate_proj", &[inner, width], 0.0, std);
        push("mlp.up_proj", &[inner, width], 0.0, std);
        push("mlp.down_proj", &[width, inner], 0.0, std / 2.0);
        push("input_layernorm", &[width], 1.0, 0.0);
        push("post_attention_layernorm", &[width], 1.0, 0.0);
    }
    specs
}

fn elements(spec: &TensorSpec, seed: u64) -> Vec<u8> {
    let count: usize = spec.shape.iter().product();
    let mut draws = Draws::new(seed, &spec.name, count as u64);
    let mut bytes = Vec::with_capacity(count * 4);
    while bytes.len() < count * 4 {
        let deviates = if spec.std == 0.0 { [0.0; 2] } else { draws.normals() };
        for deviate in deviates {
            bytes.extend(((spec.mean + spec.std * deviate) as f32).to_le_bytes());
        }
    }
    bytes.truncate(count * 4);
    bytes
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn values(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
        let view = file.tensor(name).unwrap();
        let (values, _) = view.data().as_chunks::<4>();
        values.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect()
    }

    #[test]
    fn fresh_weights_have_the_specified_spread() {
        let bytes = fresh_weights(Role::Strong, 4);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let width = 96f64.powf(-0.5);
        for (name, std) in [
            ("model.embed_tokens.weight", 1.0),
            ("lm_head.weight", 0.02),
            ("model.layers.2.self_attn.q_proj.weight", width),
            ("model.layers.0.self_attn.o_proj.weight", width / 2.0),
            ("model.layers.1.mlp.down_proj.weight", width / 2.0),
        ] {
            let values = values(&file, name);
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let found = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert!((found / std - 1.0).abs() < 0.04, "{name}: {found} instead of {std}");
            assert!(mean.abs() < 0.05 * std, "{name}: mean {mean}");
        }
        assert!(values(&file, "model.norm.weight").iter().all(|value| *value == 1.0));
        assert_eq!(file.tensor("model.layers.0.mlp.up_proj.weight").unwrap().shape(), [256, 96]);
        assert_eq!(file.len(), 3 + 3 * 9);
    }

    #[test]
    fn the_seed_decides_and_tensors_differ() {
        let one = fresh_weights(Role::Weak, 1);
        assert_eq!(one, fresh_weights(Role::Weak, 1));
        assert_ne!(one, fresh_weights(Role::Weak, 2));
        let file = SafeTensors::deserialize(&one).unwrap();
        let q = values(&file, "model.layers.0.self_attn.q_proj.weight");
        assert_ne!(q, values(&file, "model.layers.0.self_attn.k_proj.weight"));
        assert_ne!(q, values(&file, "model.layers.1.self_attn.q_proj.weight"));
    }

    #[test]
    fn odd_sizes_and_repeated_names() {
        let spec = TensorSpec::new("t", &[3, 1], 2.0, 0.5);
        let bytes = random_safetensors(std::slice::from_ref(&spec), 0).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("t").unwrap().data().len(), 12);
        let error = random_safetensors(&[spec.clone(), spec], 0).unwrap_err();
        assert_eq!(error.to_string(), "tensor t is listed twice");
    }
}
