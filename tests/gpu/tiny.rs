//! Small random models of every family, the same on every device.

use candle_core::{DType, Device, Tensor};
use model::{Decoder, ModelConfig, Tensors};
use serde_json::{Value, json};

/// What sets the families apart; head sizes are above and below a warp.
pub(crate) fn configs() -> Vec<ModelConfig> {
    let of = |model_type: &str, more: Value| {
        let mut value = json!({
            "model_type": model_type, "vocab_size": 301, "hidden_size": 96,
            "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
            "intermediate_size": 160, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "max_position_embeddings": 128, "tie_word_embeddings": true, "eos_token_id": [3, 7],
        });
        let more = more.as_object().unwrap().clone();
        value.as_object_mut().unwrap().extend(more);
        ModelConfig::parse(&value.to_string(), None, "tiny").unwrap()
    };
    vec![
        of("llama", json!({"tie_word_embeddings": false})),
        // More ids than the head's gradient is computed for at once.
        of("qwen2", json!({"vocab_size": 50_000})),
        of("qwen3", json!({"head_dim": 40})),
        of(
            "gemma3_text",
            json!({
                "head_dim": 64, "query_pre_attn_scalar": 48, "sliding_window": 9,
                "rope_local_base_freq": 100.0,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            }),
        ),
    ]
}

/// Uniform in [-1, 1), the same for the same seed (splitmix64).
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let number = |i: u64| {
        let mut z = seed.wrapping_mul(0x1_0001).wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n as u64).map(number).collect()
}

pub(crate) fn ids(seed: u64, n: usize) -> Vec<u32> {
    numbers(seed, n).iter().map(|x| ((x + 1.0) * 150.0) as u32).collect()
}

pub(crate) fn tensors(config: &ModelConfig, device: &Device) -> Tensors {
    let tensor = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let centre = if name.contains("norm") && !config.norm_offset { 1.0 } else { 0.0 };
        let n = shape.iter().product();
        let values: Vec<f64> =
            numbers(index as u64 + 1, n).iter().map(|x| centre + 0.2 * x).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(DType::F32).unwrap().to_device(device).unwrap();
        (name, tensor)
    };
    config.tensors().into_iter().enumerate().map(tensor).collect()
}

pub(crate) fn decoder(config: &ModelConfig, device: &Device) -> Decoder {
    Decoder::new(config.clone(), tensors(config, device)).unwrap()
}

/// Every number of a tensor, on the host.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference, where both are at most 1 in size or relative to the larger.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let off = |(a, b): (&f32, &f32)| (a - b).abs() / a.abs().max(b.abs()).max(1.0);
    a.iter().zip(b).map(off).fold(0.0, |max, x| if x.is_nan() { f32::NAN } else { max.max(x) })
}
