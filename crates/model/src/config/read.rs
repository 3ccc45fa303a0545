//! From a Hugging Face `config.json` to the configuration, in the names of transformers 4 and 5.
//! What is not built is refused by name.

use serde::Deserialize;
use serde_json::{Value, json};
use types::GEMMA3_TEXT_SIZES;

use super::{Activation, Family, Local, ModelConfig, Rope, RopeScaling};
use crate::ModelError;

impl ModelConfig {
    /// `origin` names the file in errors; `generation` is `generation_config.json`, whose end
    /// tokens are added.
    ///
    /// # Errors
    /// An unknown family, a missing or impossible size, or a feature that is not built.
    pub fn parse(config: &str, generation: Option<&str>, origin: &str) -> Result<Self, ModelError> {
        let value: Value = serde_json::from_str(config)
            .map_err(|e| refused(origin, format!("not valid JSON: {e}")))?;
        let value = text_part(value);
        let found = value["model_type"].as_str().unwrap_or_default().to_owned();
        let Some(family) = Family::ALL.into_iter().find(|f| f.name() == found) else {
            let known = Family::ALL.map(Family::name).join(", ");
            return Err(ModelError::UnknownFamily { origin: origin.to_owned(), found, known });
        };
        let raw = serde_json::from_value(with_defaults(family, value));
        let raw: Raw = raw.map_err(|e| refused(origin, e.to_string()))?;
        raw.check_supported().map_err(|reason| refused(origin, reason))?;
        let generation: Option<RawGeneration> = generation
            .map(serde_json::from_str)
            .transpose()
            .map_err(|e| refused(origin, format!("generation_config.json beside it: {e}")))?;
        let config = raw.into_config(family, generation);
        let config = config.map_err(|reason| refused(origin, reason))?;
        config.check().map_err(|reason| refused(origin, reason))?;
        Ok(config)
    }
}

/// The language model of a Gemma 3 that also sees; anything else as it is.
fn text_part(mut value: Value) -> Value {
    if value["model_type"] != "gemma3" || !value["text_config"].is_object() {
        return value;
    }
    let mut text = value["text_config"].take();
    text["model_type"] = json!(Family::Gemma3.name());
    for outer in ["eos_token_id", "bos_token_id", "pad_token_id"] {
        if text[outer].is_null() && !value[outer].is_null() {
            text[outer] = value[outer].take();
        }
    }
    text
}

/// Published Gemma 3 files leave out what equals the defaults of transformers' `Gemma3TextConfig`.
fn with_defaults(family: Family, mut value: Value) -> Value {
    if family != Family::Gemma3 {
        return value;
    }
    let others = [
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("rms_norm_eps", json!(1e-6)),
        ("max_position_embeddings", json!(131_072)),
        ("tie_word_embeddings", json!(true)),
        ("eos_token_id", json!(1)),
        ("query_pre_attn_scalar", json!(256)),
        ("sliding_window", json!(4096)),
        ("sliding_window_pattern", json!(6)),
    ];
    let sizes = GEMMA3_TEXT_SIZES.map(|(name, size)| (name, json!(size)));
    for (name, default) in sizes.into_iter().chain(others) {
        if value[name].is_null() {
            value[name] = default;
        }
    }
    value["hidden_act"] = value["hidden_activation"].take();
    value
}

/// The fields that are read; others are of no account to the forward pass.
#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    eos_token_id: Option<Ids>,
    bos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "eos_token_id must be a token id or a list of token ids")]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl Raw {
    fn check_supported(&self) -> Result<(), String> {
        if self.mlp_bias == Some(true) {
            return Err("mlp_bias is not supported".to_owned());
        }
        if self.partial_rotary_factor.is_some_and(|f| f != 1.0) {
            return Err("partial_rotary_factor other than 1 is not supported".to_owned());
        }
        if self.use_bidirectional_attention == Some(true) {
            return Err(
                "use_bidirectional_attention is not supported: every layer is causal".into()
            );
        }
        let caps = [
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        match caps.into_iter().find(|(_, cap)| cap.is_some()) {
            Some((name, _)) => Err(format!("{name} is not supported, only null")),
            None => Ok(()),
        }
    }

    fn into_config(
        self,
        family: Family,
        generation: Option<RawGeneration>,
    ) -> Result<ModelConfig, String> {
        let heads = self.num_attention_heads;
        let gemma = family == Family::Gemma3;
        let bias = family != Family::Qwen2 && self.attention_bias == Some(true);
        let head_dim = self.head_dim.unwrap_or(match family {
            Family::Llama | Family::Qwen2 => self.hidden_size / heads.max(1),
            Family::Qwen3 => 128,
            Family::Gemma3 => 256,
        });
        Ok(ModelConfig {
            family,
            vocab_size: self.vocab_size,
            ids: self.vocab_size,
            hidden_size: self.hidden_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim,
            intermediate_size: self.intermediate_size,
            activation: self.activation(family)?,
            rms_norm_eps: self.rms_norm_eps,
            norm_offset: gemma,
            post_norms: gemma,
            qk_norm: gemma || family == Family::Qwen3,
            qkv_bias: family == Family::Qwen2 || bias,
            output_bias: bias,
            scaled_embedding: gemma,
            query_pre_attn_scalar: match gemma {
                true => self.query_pre_attn_scalar.unwrap_or(256.0),
                false => head_dim as f64,
            },
            rope: self.rope(family)?,
            local: self.local(family)?,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(2048),
            stops: stops(self.eos_token_id, generation),
            bos: self.bos_token_id,
            pad: self.pad_token_id,
        })
    }

    fn activation(&self, family: Family) -> Result<Activation, String> {
        let (name, known) = match family {
            Family::Gemma3 => ("gelu_pytorch_tanh", Activation::GeluTanh),
            Family::Llama | Family::Qwen2 | Family::Qwen3 => ("silu", Activation::Silu),
        };
        match self.hidden_act.as_deref() {
            Some(other) if other != name => {
                let family = family.name();
                Err(format!("hidden_act {other:?} is not supported, only {name:?} in a {family}"))
            }
            _ => Ok(known),
        }
    }

    /// What transformers 5 says of layers of this type, or of all.
    fn parameters(&self, layer_type: &str) -> Option<&Value> {
        let all = self.rope_parameters.as_ref().filter(|value| value.is_object())?;
        Some(all.get(layer_type).unwrap_or(all))
    }

    fn rope(&self, family: Family) -> Result<Rope, String> {
        let usual = if family == Family::Gemma3 { 1e6 } else { 1e4 };
        let named = self.parameters(GLOBAL);
        let theta = named.and_then(|value| value["rope_theta"].as_f64()).or(self.rope_theta);
        let scaling = match (named, &self.rope_scaling) {
            (Some(value), _) => Self::scaling("rope_parameters", value)?,
            (None, Some(value)) => Self::scaling("rope_scaling", value)?,
            (None, None) => None,
        };
        Ok(Rope { theta: theta.unwrap_or(usual), scaling })
    }

    fn local(&self, family: Family) -> Result<Option<Local>, String> {
        let gemma = family == Family::Gemma3;
        let slides = match family {
            Family::Llama => false,
            Family::Qwen2 | Family::Qwen3 => self.use_sliding_window == Some(true),
            Family::Gemma3 => true,
        };
        let layers = self.local_layers(slides)?;
        if !layers.contains(&true) {
            return Ok(None);
        }
        let Some(window) = self.sliding_window.filter(|_| slides) else {
            return Err("layer_types names sliding_attention but no sliding_window is used".into());
        };
        let rope = match gemma {
            true => self.local_rope()?,
            false => self.rope(family)?,
        };
        Ok(Some(Local { window, rope, layers }))
    }

    fn local_rope(&self) -> Result<Rope, String> {
        let named = self.rope_parameters.as_ref().and_then(|all| all.get(LOCAL));
        let theta = named.and_then(|value| value["rope_theta"].as_f64());
        let scaling = named.map(|value| Self::scaling("rope_parameters", value)).transpose()?;
        let theta = theta.or(self.rope_local_base_freq).unwrap_or(1e4);
        Ok(Rope { theta, scaling: scaling.flatten() })
    }

    fn local_layers(&self, slides: bool) -> Result<Vec<bool>, String> {
        let count = self.num_hidden_layers;
        let Some(types) = &self.layer_types else {
            let local = |layer: usize| match self.sliding_window_pattern {
                Some(pattern) => !(layer + 1).is_multiple_of(pattern),
                None => slides && layer >= self.max_window_layers.unwrap_or(usize::MAX),
            };
            return Ok((0..count).map(|layer| slides && local(layer)).collect());
        };
        if types.len() != count {
            return Err(format!("layer_types names {} layers of {count}", types.len()));
        }
        let local = |name: &String| match name.as_str() {
            GLOBAL => Ok(false),
            LOCAL => Ok(true),
            other => {
                Err(format!("layer_types: {other:?} is not supported, only {GLOBAL}, {LOCAL}"))
            }
        };
        types.iter().map(local).collect()
    }

    fn scaling(field: &str, value: &Value) -> Result<Option<RopeScaling>, String> {
        let kind = value["rope_type"].as_str().or_else(|| value["type"].as_str());
        let number = |name: &str| {
            let found = value[name].as_f64();
            found.ok_or_else(|| format!("{field} has no number {name}"))
        };
        if value["partial_rotary_factor"].as_f64().is_some_and(|f| f != 1.0) {
            return Err(format!("{field}: partial_rotary_factor other than 1 is not supported"));
        }
        match kind.unwrap_or("default") {
            "default" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
            "llama3" => Ok(Some(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            })),
            other => Err(format!(
                "{field} of type {other:?} is not supported, only default, linear and llama3: use \
                 a model without it"
            )),
        }
    }
}

pub(super) const GLOBAL: &str = "full_attention";
pub(super) const LOCAL: &str = "sliding_attention";

/// Each once, those of `config.json` first.
fn stops(config: Option<Ids>, generation: Option<RawGeneration>) -> Vec<u32> {
    let ids = |ids: Option<Ids>| ids.map(Ids::into_vec).unwrap_or_default();
    let mut stops: Vec<u32> = Vec::new();
    for id in ids(config).into_iter().chain(ids(generation.and_then(|g| g.eos_token_id))) {
        if !stops.contains(&id) {
            stops.push(id);
        }
    }
    stops
}

fn refused(origin: &str, reason: String) -> ModelError {
    ModelError::Config { origin: origin.to_owned(), reason }
}
