//! From the configuration to a `config.json` that transformers 4 and 5 load. The names are those of
//! transformers 4, which 5 still reads.

use serde_json::{Value, json};

use super::read::{GLOBAL, LOCAL};
use super::{Activation, Family, ModelConfig, RopeScaling};

impl ModelConfig {
    /// A `config.json` that [`Self::parse`] and Hugging Face read back.
    #[must_use]
    pub fn to_json(&self) -> String {
        let eos = match self.stops.as_slice() {
            [only] => json!(only),
            all => json!(all),
        };
        let activation = match self.activation {
            Activation::Silu => ("hidden_act", "silu"),
            Activation::GeluTanh => ("hidden_activation", "gelu_pytorch_tanh"),
        };
        let mut value = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.name(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            (activation.0): activation.1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "eos_token_id": eos,
            "bos_token_id": self.bos,
            "pad_token_id": self.pad,
        });
        if let Some(scaling) = self.rope.scaling {
            value["rope_scaling"] = scaling_json(scaling);
        }
        if self.family != Family::Qwen2 {
            value["attention_bias"] = json!(self.qkv_bias);
        }
        if self.family == Family::Gemma3 {
            value["query_pre_attn_scalar"] = number(self.query_pre_attn_scalar);
        }
        self.write_local(&mut value);
        format!("{value:#}\n")
    }

    fn write_local(&self, value: &mut Value) {
        let types = |layers: &[bool]| -> Vec<&str> {
            layers.iter().map(|local| if *local { LOCAL } else { GLOBAL }).collect()
        };
        let gemma = self.family == Family::Gemma3;
        match &self.local {
            Some(local) => {
                value["layer_types"] = json!(types(&local.layers));
                value["sliding_window"] = json!(local.window);
                match gemma {
                    true => value["rope_local_base_freq"] = json!(local.rope.theta),
                    false => value["use_sliding_window"] = json!(true),
                }
            }
            None if gemma => value["layer_types"] = json!(types(&vec![false; self.layers])),
            None => {}
        }
    }
}

fn scaling_json(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": number(original_max_position_embeddings),
        }),
    }
}

/// Whole numbers without a point: transformers tells the two apart.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 { json!(x as u64) } else { json!(x) }
}
