//! The one decoder described by data: what a Hugging Face `config.json` says and which tensors
//! follow from it. Reading files is not done here.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::ModelError;

/// Which published layout the names and defaults follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
}

/// A pre-norm decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
    /// Ids that end a text; the first one stands for all of them.
    pub stops: Vec<u32>,
}

impl Family {
    const ALL: [Self; 2] = [Self::Llama, Self::Qwen2];

    /// The `model_type` of `config.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
        }
    }
}

impl ModelConfig {
    /// `origin` names the file in errors; `generation` is `generation_config.json`, whose end
    /// tokens are added.
    ///
    /// # Errors
    /// An unknown family, a missing or impossible size, or a feature that is not built.
    pub fn parse(config: &str, generation: Option<&str>, origin: &str) -> Result<Self, ModelError> {
        let value: Value = serde_json::from_str(config)
            .map_err(|e| refused(origin, format!("not valid JSON: {e}")))?;
        let found = value["model_type"].as_str().unwrap_or_default().to_owned();
        let Some(family) = Family::ALL.into_iter().find(|f| f.name() == found) else {
            let known = Family::ALL.map(Family::name).join(", ");
            return Err(ModelError::UnknownFamily { origin: origin.to_owned(), found, known });
        };
        let raw: Raw = serde_json::from_value(value).map_err(|e| refused(origin, e.to_string()))?;
        raw.check_supported().map_err(|reason| refused(origin, reason))?;
        let generation: Option<RawGeneration> = generation
            .map(serde_json::from_str)
            .transpose()
            .map_err(|e| refused(origin, format!("generation_config.json beside it: {e}")))?;
        let config = raw.into_config(family, generation);
        config.check().map_err(|reason| refused(origin, reason))?;
        Ok(config)
    }

    /// A `config.json` that [`Self::parse`] and Hugging Face read back.
    #[must_use]
    pub fn to_json(&self) -> String {
        let eos = match self.stops.as_slice() {
            [only] => json!(only),
            all => json!(all),
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
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "eos_token_id": eos,
        });
        if self.family == Family::Llama {
            value["attention_bias"] = json!(self.qkv_bias);
        }
        format!("{value:#}\n")
    }

    /// Every tensor of the model with its shape, under Hugging Face's names.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, ff) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: &[usize]| {
                all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            push("input_layernorm.weight", &[d]);
            for (name, out) in [("q", q), ("k", kv), ("v", kv)] {
                push(&format!("self_attn.{name}_proj.weight"), &[out, d]);
                if self.qkv_bias {
                    push(&format!("self_attn.{name}_proj.bias"), &[out]);
                }
            }
            push("self_attn.o_proj.weight", &[d, q]);
            if self.output_bias {
                push("self_attn.o_proj.bias", &[d]);
            }
            push("post_attention_layernorm.weight", &[d]);
            push("mlp.gate_proj.weight", &[ff, d]);
            push("mlp.up_proj.weight", &[ff, d]);
            push("mlp.down_proj.weight", &[d, ff]);
        }
        all.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        all
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv) = (self.heads, self.kv_heads);
            return Err(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {kv}"
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim {} is odd, rotary positions need pairs", self.head_dim));
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.rms_norm_eps) || !positive(self.rope_theta) {
            return Err("rms_norm_eps and rope_theta must be positive".to_owned());
        }
        match self.stops.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(format!("eos_token_id {id} is outside the {} tokens", self.vocab_size)),
            None if self.stops.is_empty() => {
                Err("no eos_token_id: name the token that ends a text".to_owned())
            }
            None => Ok(()),
        }
    }
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
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    use_sliding_window: Option<bool>,
    partial_rotary_factor: Option<f64>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    eos_token_id: Option<Ids>,
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
        for (field, value) in
            [("rope_scaling", &self.rope_scaling), ("rope_parameters", &self.rope_parameters)]
        {
            let Some(value) = value else { continue };
            let kind = value["rope_type"].as_str().or_else(|| value["type"].as_str());
            let kind = kind.unwrap_or("default");
            if kind != "default" {
                return Err(format!(
                    "{field} of type {kind:?} is not supported, only unscaled rotary positions: \
                     use a model without it"
                ));
            }
        }
        let act = self.hidden_act.as_deref().unwrap_or("silu");
        if act != "silu" {
            return Err(format!("hidden_act {act:?} is not supported, only \"silu\""));
        }
        if self.use_sliding_window == Some(true) {
            return Err("use_sliding_window is not supported: set it to false".to_owned());
        }
        if self.mlp_bias == Some(true) {
            return Err("mlp_bias is not supported".to_owned());
        }
        if self.partial_rotary_factor.is_some_and(|f| f != 1.0) {
            return Err("partial_rotary_factor other than 1 is not supported".to_owned());
        }
        Ok(())
    }

    fn into_config(self, family: Family, generation: Option<RawGeneration>) -> ModelConfig {
        let heads = self.num_attention_heads;
        let nested = self.rope_parameters.as_ref().and_then(|r| r["rope_theta"].as_f64());
        let llama_bias = family == Family::Llama && self.attention_bias == Some(true);
        let ids = |ids: Option<Ids>| ids.map(Ids::into_vec).unwrap_or_default();
        let mut stops: Vec<u32> = Vec::new();
        for id in
            ids(self.eos_token_id).into_iter().chain(ids(generation.and_then(|g| g.eos_token_id)))
        {
            if !stops.contains(&id) {
                stops.push(id);
            }
        }
        ModelConfig {
            family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / heads.max(1)),
            intermediate_size: self.intermediate_size,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta.or(nested).unwrap_or(10_000.0),
            qkv_bias: family == Family::Qwen2 || llama_bias,
            output_bias: llama_bias,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(2048),
            stops,
        }
    }
}

fn refused(origin: &str, reason: String) -> ModelError {
    ModelError::Config { origin: origin.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(family: &str) -> Value {
        json!({
            "model_type": family, "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 12,
            "rms_norm_eps": 1e-6, "eos_token_id": [3, 4],
        })
    }

    fn parse(value: &Value) -> Result<ModelConfig, ModelError> {
        ModelConfig::parse(&value.to_string(), Some(r#"{"eos_token_id":[5,3]}"#), "c.json")
    }

    fn refusal(change: impl FnOnce(&mut Value)) -> String {
        let mut value = base("qwen2");
        change(&mut value);
        parse(&value).expect_err("must be refused").to_string()
    }

    #[test]
    fn fields_defaults_and_end_tokens_are_read_and_written_back() {
        let mut value = base("qwen2");
        value["rope_parameters"] = json!({"rope_theta": 5e5, "rope_type": "default"});
        let config = parse(&value).unwrap();
        assert_eq!((config.head_dim, config.qkv_bias, config.output_bias), (4, true, false));
        assert_eq!((config.rope_theta, config.stops.as_slice()), (5e5, &[3, 4, 5][..]));
        assert_eq!(ModelConfig::parse(&config.to_json(), None, "c").unwrap(), config);
        let llama = parse(&base("llama")).unwrap();
        assert_eq!((llama.rope_theta, llama.qkv_bias), (1e4, false));
        assert_eq!(ModelConfig::parse(&llama.to_json(), None, "c").unwrap(), llama);
    }

    #[test]
    fn tensors_carry_their_names_and_shapes() {
        let config = parse(&base("qwen2")).unwrap();
        let all = config.tensors();
        assert_eq!(all.len(), 1 + 12 + 2);
        let shape = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, s)| s.clone());
        assert_eq!(shape("model.layers.0.self_attn.k_proj.weight"), Some(vec![4, 8]));
        assert_eq!(shape("model.layers.0.self_attn.k_proj.bias"), Some(vec![4]));
        assert_eq!(shape("lm_head.weight"), Some(vec![20, 8]));
        // 2·20·8 + 8 (norm) + 8·8+8 + 2·(4·8+4) + 8·8 + 2·8 + 3·8·12
        assert_eq!(config.parameters(), 320 + 8 + 72 + 72 + 64 + 16 + 288);
    }

    #[test]
    fn ends_that_are_no_ids_are_refused_by_name() {
        for value in [json!(-1), json!("</s>"), json!([1, "x"])] {
            let text = refusal(|v| v["eos_token_id"] = value);
            assert!(text.contains("eos_token_id must be a token id"), "{text}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let unknown = refusal(|v| v["model_type"] = json!("gpt_neox"));
        assert!(unknown.contains("\"gpt_neox\"") && unknown.contains("llama, qwen2"), "{unknown}");
        let scaled = refusal(|v| v["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0}));
        assert!(scaled.contains("c.json") && scaled.contains("\"llama3\""), "{scaled}");
        assert!(refusal(|v| v["rope_parameters"] = json!({"rope_type": "yarn"})).contains("yarn"));
        assert!(refusal(|v| v["use_sliding_window"] = json!(true)).contains("sliding"));
        assert!(refusal(|v| v["hidden_act"] = json!("gelu")).contains("gelu"));
        assert!(refusal(|v| v["num_key_value_heads"] = json!(3)).contains("no multiple"));
        assert!(refusal(|v| v["eos_token_id"] = json!(20)).contains("eos_token_id 20"));
        assert!(refusal(|v| v["vocab_size"] = json!(0)).contains("vocab_size"));
        let missing = refusal(|v| drop(v.as_object_mut().unwrap().remove("hidden_size")));
        assert!(missing.contains("hidden_size"), "{missing}");
    }
}
