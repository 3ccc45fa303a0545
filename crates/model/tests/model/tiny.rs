//! Small random decoders of every kind that is supported, and how to compare numbers.

use candle_core::{DType, Device, Tensor};
use model::{Decoder, Family, ModelConfig, RaggedEngine, RowInput, Tensors, Want};
use serde_json::{Value, json};

/// What sets one supported decoder apart from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) family: Family,
    pub(crate) tied: bool,
    /// `attention_bias`, Llama's and Qwen3's only.
    pub(crate) bias: bool,
    /// Further fields of `config.json`, a JSON object.
    pub(crate) more: &'static str,
}

pub(crate) const LLAMA: Kind = Kind { family: Family::Llama, tied: false, bias: false, more: "{}" };
pub(crate) const LLAMA3: Kind = Kind {
    more: r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}"#,
    ..LLAMA
};
pub(crate) const QWEN2: Kind = Kind { family: Family::Qwen2, ..LLAMA };
pub(crate) const QWEN3: Kind = Kind { family: Family::Qwen3, more: r#"{"head_dim": 8}"#, ..LLAMA };
/// Local layers around a global one; the window is shorter than the texts of the tests.
pub(crate) const GEMMA3: Kind = Kind {
    family: Family::Gemma3,
    tied: true,
    bias: false,
    more: r#"{"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 3,
        "rope_local_base_freq": 10.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}"#,
};
pub(crate) const KINDS: [Kind; 11] = [
    LLAMA,
    Kind { tied: true, ..LLAMA },
    Kind { bias: true, ..LLAMA },
    QWEN2,
    Kind { tied: true, ..QWEN2 },
    LLAMA3,
    Kind {
        more: r#"{"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1}"#,
        ..QWEN2
    },
    QWEN3,
    Kind { tied: true, bias: true, ..QWEN3 },
    GEMMA3,
    Kind { tied: false, ..GEMMA3 },
];

pub(crate) fn config(kind: Kind) -> ModelConfig {
    let Kind { family, tied, bias, more } = kind;
    let mut value = json!({
        "model_type": family.name(), "vocab_size": 23, "hidden_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20,
        "rms_norm_eps": 1e-5, "rope_theta": 100.0, "max_position_embeddings": 64,
        "tie_word_embeddings": tied, "attention_bias": bias, "eos_token_id": [3, 7],
    });
    let more: serde_json::Map<String, Value> = serde_json::from_str(more).unwrap();
    value.as_object_mut().unwrap().extend(more);
    ModelConfig::parse(&value.to_string(), None, "tiny").unwrap()
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
    numbers(seed, n).iter().map(|x| ((x + 1.0) * 11.5) as u32).collect()
}

/// Weights large enough that every part of the model matters.
pub(crate) fn tensors(config: &ModelConfig, dtype: DType) -> Tensors {
    let tensor = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let n = shape.iter().product();
        let scale = 0.6;
        let centre = if name.contains("norm") && !config.norm_offset { 1.0 } else { 0.0 };
        let values = numbers(index as u64 + 1, n).iter().map(|x| centre + scale * x).collect();
        let tensor = Tensor::from_vec::<_, f64>(values, shape, &Device::Cpu).unwrap();
        (name, tensor.to_dtype(dtype).unwrap())
    };
    config.tensors().into_iter().enumerate().map(tensor).collect()
}

pub(crate) fn decoder(kind: Kind, dtype: DType) -> Decoder {
    let config = config(kind);
    let tensors = tensors(&config, dtype);
    Decoder::new(config, tensors).unwrap()
}

/// `[B,T]` from rows of one length.
pub(crate) fn batch(rows: &[&[u32]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

/// Logits of every position of one text, from the training forward.
pub(crate) fn train_logits(decoder: &Decoder, text: &[u32]) -> Vec<Vec<f64>> {
    let tokens = batch(&[text]);
    let select = Tensor::arange(0, text.len() as u32, &Device::Cpu).unwrap();
    rows(&decoder.logits(&tokens, &select).unwrap())
}

pub(crate) fn rows(logits: &Tensor) -> Vec<Vec<f64>> {
    logits.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
}

pub(crate) fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let norm = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    logits.iter().map(|l| l - norm).collect()
}

/// Largest difference of log-probabilities over positions and vocabulary.
pub(crate) fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        let (a, b) = (log_softmax(a), log_softmax(b));
        a.into_iter().zip(b)
    });
    pairs.fold(0.0, |worst, (a, b)| f64::max(worst, (a - b).abs()))
}

/// Appends `tokens` to a row and gives the logits after each.
pub(crate) fn feed(engine: &mut RaggedEngine, row: usize, tokens: &[u32]) -> Vec<Vec<f64>> {
    rows(&engine.step(&[RowInput { row, tokens, want: Want::All }]).unwrap().logits().unwrap())
}
