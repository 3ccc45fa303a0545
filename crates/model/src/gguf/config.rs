//! The key-values of a GGUF file as the `config.json` that the same model has on the Hub, which is
//! then read like any other. Which sizes and features are supported is decided there.

use serde_json::{Map, Value, json};

use super::file::GgufFile;
use super::tokenizer::read_ends;
use crate::{ModelConfig, ModelError};

const ARCHITECTURE: &str = "general.architecture";

/// The widths of the rotary table of Llama 3.1 and later, the same in all of them; only the factor
/// differs and is found again in the file's own table (`rope_freqs.weight`).
const LLAMA3: Llama3 = Llama3 { low: 1.0, high: 4.0, original: 8192.0 };

/// A layer in which every token sees every other one follows five with a window (Gemma 3 report, §2);
/// llama.cpp has both numbers in its code, not in the file.
const GEMMA3_PATTERN: usize = 6;
const GEMMA3_LOCAL_THETA: f64 = 10_000.0;
/// Layers of the one size whose queries are scaled by hidden size over heads (27B).
const GEMMA3_27B_LAYERS: usize = 62;

struct Llama3 {
    low: f64,
    high: f64,
    original: f64,
}

/// An architecture that llama.cpp writes and that the decoder computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
}

impl Architecture {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// # Errors
    /// An architecture that is missing or not known.
    pub(crate) fn read(file: &GgufFile) -> Result<Self, ModelError> {
        let found = file.need(ARCHITECTURE, file.text(ARCHITECTURE)?)?;
        Self::ALL.into_iter().find(|known| known.name() == found).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            file.refused(format!("{ARCHITECTURE} {found:?} is not supported, only {known}"))
        })
    }

    /// `general.architecture`, and the beginning of the other keys.
    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    /// The `model_type` of the same model on the Hub.
    fn model_type(self) -> &'static str {
        match self {
            Self::Gemma3 => "gemma3_text",
            other => other.name(),
        }
    }
}

/// # Errors
/// A key that is missing or impossible, a feature that is not built.
pub(crate) fn read_config(file: &GgufFile) -> Result<ModelConfig, ModelError> {
    let architecture = Architecture::read(file)?;
    let keys = Keys { file, prefix: architecture.name() };
    let mut config = shared(&keys, architecture)?;
    match architecture {
        Architecture::Llama => llama(&keys, &mut config)?,
        Architecture::Gemma3 => gemma3(&keys, &mut config)?,
        Architecture::Qwen2 | Architecture::Qwen3 => {}
    }
    ModelConfig::parse(&Value::Object(config).to_string(), None, &file.name())
}

struct Keys<'a> {
    file: &'a GgufFile,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn size(&self, name: &str) -> Result<usize, ModelError> {
        let key = self.key(name);
        self.file.need(&key, self.file.count(&key)?)
    }

    fn optional(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.file.count(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.file.float(&self.key(name))
    }
}

fn shared(keys: &Keys<'_>, architecture: Architecture) -> Result<Map<String, Value>, ModelError> {
    let file = keys.file;
    let (hidden, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let eps = "attention.layer_norm_rms_epsilon";
    let eps = file.need(&keys.key(eps), keys.float(eps)?)?;
    let head_dim = keys.optional("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    if let Some(turned) = keys.optional("rope.dimension_count")?
        && turned != head_dim
    {
        return Err(file.refused(format!(
            "turns {turned} of the {head_dim} values of a head by their position, only all of them \
             are supported"
        )));
    }
    let config = json!({
        "model_type": architecture.model_type(),
        "vocab_size": vocabulary(file)?,
        "hidden_size": hidden,
        "num_hidden_layers": keys.size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.optional("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "intermediate_size": keys.size("feed_forward_length")?,
        // Stored as f32: the shortest decimal that means it is what the Hub's file says.
        "rms_norm_eps": (eps as f32).to_string().parse::<f64>().unwrap_or(eps),
        "rope_theta": keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        "max_position_embeddings": keys.size("context_length")?,
        "tie_word_embeddings": !file.has_tensor("output.weight"),
        "eos_token_id": read_ends(file)?,
    });
    let Value::Object(mut config) = config else { unreachable!("an object was written") };
    if let Some(kind) = file.text(&keys.key("rope.scaling.type"))?
        && kind != "none"
    {
        let factor = keys.float("rope.scaling.factor")?;
        config.insert("rope_scaling".to_owned(), json!({"rope_type": kind, "factor": factor}));
    }
    Ok(config)
}

/// Rows of the embedding: converters pad the list of tokens, or leave it shorter than the matrix.
fn vocabulary(file: &GgufFile) -> Result<usize, ModelError> {
    let name = "token_embd.weight";
    let shape = file.shape(name).unwrap_or_default();
    match shape {
        [rows, _] => Ok(*rows),
        _ => Err(file.refused(format!("lacks tensor {name}, or it is no matrix"))),
    }
}

fn llama(keys: &Keys<'_>, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let file = keys.file;
    config.insert("attention_bias".to_owned(), json!(file.has_tensor("blk.0.attn_q.bias")));
    let name = "rope_freqs.weight";
    let Some([half]) = file.shape(name) else { return Ok(()) };
    let table = file.tensor(name, &[*half])?.build(&candle_core::Device::Cpu)?;
    let table: Vec<f32> = table.dequantize(&candle_core::Device::Cpu)?.to_vec1()?;
    let theta = config["rope_theta"].as_f64().unwrap_or_default();
    let factor = table.iter().copied().fold(1.0, f32::max);
    let expected = |i: usize| LLAMA3.divisor(theta.powf(-(i as f64) / *half as f64), factor.into());
    if !table.iter().enumerate().all(|(i, x)| (f64::from(*x) / expected(i) - 1.0).abs() < 1e-3) {
        return Err(file.refused(format!(
            "{name} is no scaling of rotary positions that is known, only Llama 3.1's is"
        )));
    }
    let scaling = json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3.low,
        "high_freq_factor": LLAMA3.high,
        "original_max_position_embeddings": LLAMA3.original as u64,
    });
    config.insert("rope_scaling".to_owned(), scaling);
    Ok(())
}

impl Llama3 {
    /// What a frequency is divided by (`_compute_llama3_parameters` in transformers).
    fn divisor(&self, frequency: f64, factor: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < self.original / self.high {
            return 1.0;
        }
        if wavelength > self.original / self.low {
            return factor;
        }
        let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

fn gemma3(keys: &Keys<'_>, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let layers = keys.size("block_count")?;
    let pattern = keys.optional("attention.sliding_window_pattern")?.unwrap_or(GEMMA3_PATTERN);
    let kind = |layer: usize| match (layer + 1).is_multiple_of(pattern) {
        true => "full_attention",
        false => "sliding_attention",
    };
    let head_dim = config["head_dim"].as_u64().unwrap_or_default();
    let heads = keys.size("attention.head_count")?;
    let query_scale = match layers == GEMMA3_27B_LAYERS {
        true => (keys.size("embedding_length")? / heads.max(1)) as u64,
        false => head_dim,
    };
    let local = keys.float("rope.freq_base_swa")?.unwrap_or(GEMMA3_LOCAL_THETA);
    for (name, value) in [
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("sliding_window", json!(keys.size("attention.sliding_window")?)),
        ("layer_types", json!((0..layers).map(kind).collect::<Vec<_>>())),
        ("rope_local_base_freq", json!(local)),
        ("query_pre_attn_scalar", json!(query_scale)),
    ] {
        config.insert(name.to_owned(), value);
    }
    Ok(())
}
