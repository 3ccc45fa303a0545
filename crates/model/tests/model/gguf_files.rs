//! Small GGUF files as llama.cpp's converter writes them, from weights in Hugging Face's order.

use std::collections::BTreeMap;
use std::fs;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use model::{ModelConfig, Tensors};
use serde_json::json;
use tempfile::TempDir;

use crate::tiny;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
}

/// Token, score and `llama_token_type`.
pub(crate) const WORDS: [(&str, f32, i32); 16] = [
    ("<unk>", 0.0, 2),
    ("<eos>", 0.0, 3),
    ("<bos>", 0.0, 3),
    ("<end_of_turn>", 0.0, 3),
    ("\n", 0.0, 4),
    ("a", -9.0, 1),
    ("b", -9.0, 1),
    ("▁", -9.0, 1),
    ("ab", -3.0, 1),
    ("ba", -2.0, 1),
    ("▁a", -4.0, 1),
    ("aba", -1.0, 1),
    ("<0xC3>", 0.0, 6),
    ("<0xA9>", 0.0, 6),
    ("\n\n", 0.0, 4),
    ("▁▁", -5.0, 1),
];

const HIDDEN: usize = 256;
const ROWS: usize = 20;
const LAYERS: usize = 2;

impl Arch {
    pub(crate) const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }
}

pub(crate) fn hub_config(arch: Arch) -> ModelConfig {
    let mut value = json!({
        "model_type": arch.name(), "vocab_size": ROWS, "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 64, "intermediate_size": 256, "rms_norm_eps": 1e-6, "rope_theta": 100.0,
        "max_position_embeddings": 64, "tie_word_embeddings": arch == Arch::Gemma3,
        "eos_token_id": [1, 3],
    });
    if arch == Arch::Gemma3 {
        value["model_type"] = json!("gemma3_text");
        value["query_pre_attn_scalar"] = json!(64);
        value["sliding_window"] = json!(4);
        value["sliding_window_pattern"] = json!(6);
    }
    let mut config = ModelConfig::parse(&value.to_string(), None, "hub").unwrap();
    config.ids = WORDS.len();
    config
}

pub(crate) fn hub_tensors(arch: Arch) -> Tensors {
    let tensors = tiny::tensors(&hub_config(arch), DType::F32);
    let small = |(name, tensor): (String, Tensor)| {
        let scale = if tensor.rank() == 2 { 0.1 } else { 1.0 };
        (name, (tensor * scale).unwrap())
    };
    tensors.into_iter().map(small).collect()
}

/// What is written, to be spoilt first.
pub(crate) struct File {
    pub(crate) keys: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, QTensor>,
}

impl File {
    /// Matrices are quantised as `kind` says by llama.cpp's name.
    pub(crate) fn new(arch: Arch, kind: impl Fn(&str) -> GgmlDType) -> Self {
        let config = hub_config(arch);
        let mut file = Self { keys: keys(arch), tensors: BTreeMap::new() };
        for (name, tensor) in hub_tensors(arch) {
            let found = file_name(arch, &name);
            let tensor = converted(arch, &config, &name, &tensor);
            let dtype = if tensor.rank() == 2 { kind(&found) } else { GgmlDType::F32 };
            file.tensors.insert(found, QTensor::quantize(&tensor, dtype).unwrap());
        }
        file
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.keys.insert(key.to_owned(), value);
    }

    pub(crate) fn unset(&mut self, key: &str) {
        self.keys.remove(key).expect("it is set");
    }

    pub(crate) fn put(&mut self, name: &str, values: Vec<f32>) {
        let tensor = Tensor::new(values, &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// As `model.gguf` in a directory of its own.
    pub(crate) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<(&str, &Value)> = self.keys.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut out = fs::File::create(dir.path().join("model.gguf")).unwrap();
        gguf_file::write(&mut out, &keys, &tensors).unwrap();
        dir
    }
}

fn keys(arch: Arch) -> BTreeMap<String, Value> {
    let name = arch.name();
    let text = |text: &str| Value::String(text.to_owned());
    let mut keys = BTreeMap::from([
        ("general.architecture".to_owned(), text(name)),
        ("tokenizer.ggml.model".to_owned(), text("llama")),
        ("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(false)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
    ]);
    let list = |values: Vec<Value>| Value::Array(values);
    for (key, value) in [
        ("tokens", list(WORDS.iter().map(|(token, ..)| text(token)).collect())),
        ("scores", list(WORDS.iter().map(|(_, score, _)| Value::F32(*score)).collect())),
        ("token_type", list(WORDS.iter().map(|(.., kind)| Value::I32(*kind)).collect())),
        ("eos_token_id", Value::U32(1)),
        ("bos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(0)),
    ] {
        keys.insert(format!("tokenizer.ggml.{key}"), value);
    }
    for (key, value) in [
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", 256),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 4),
        ("attention.key_length", 64),
        ("context_length", 64),
        ("attention.sliding_window", 4),
    ] {
        keys.insert(format!("{name}.{key}"), Value::U32(value as u32));
    }
    keys.insert(format!("{name}.attention.layer_norm_rms_epsilon"), Value::F32(1e-6));
    keys.insert(format!("{name}.rope.freq_base"), Value::F32(100.0));
    keys
}

fn file_name(arch: Arch, name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.");
    let ffn = if arch == Arch::Gemma3 { "pre_feedforward" } else { "post_attention" };
    for (hub, file) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        (&format!("{ffn}_layernorm"), "ffn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(hub, file);
    }
    name
}

/// What llama.cpp's `convert_hf_to_gguf.py` does to a tensor.
fn converted(arch: Arch, config: &ModelConfig, name: &str, tensor: &Tensor) -> Tensor {
    let heads = match name {
        _ if arch != Arch::Llama => None,
        _ if name.contains("q_proj") => Some(config.heads),
        _ if name.contains("k_proj") => Some(config.kv_heads),
        _ => None,
    };
    if let Some(heads) = heads {
        let (rows, columns) = tensor.dims2().unwrap();
        let split = tensor.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
        return split
            .transpose(1, 2)
            .unwrap()
            .contiguous()
            .unwrap()
            .reshape((rows, columns))
            .unwrap();
    }
    match arch == Arch::Gemma3 && name.ends_with("norm.weight") {
        true => (tensor + 1.0).unwrap(),
        false => tensor.clone(),
    }
}
