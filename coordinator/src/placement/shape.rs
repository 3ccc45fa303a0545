//! How large a model is, from its `config.json`. Whether the engines can compute it is theirs to
//! say; here any decoder with these fields counts.

use anyhow::{Context, bail};
use serde_json::Value;
use types::GEMMA3_TEXT_SIZES;

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub vocab: u64,
    pub hidden: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub intermediate: u64,
    pub tied: bool,
    /// Of queries, keys and values.
    pub bias: bool,
    /// Norms over the head's dimension of queries and keys.
    pub head_norms: bool,
    /// Norms of one layer over the hidden dimension.
    pub norms: u64,
}

impl Shape {
    /// `origin` names the file in errors.
    ///
    /// # Errors
    /// A size that is missing or no number.
    pub fn parse(config: &str, origin: &str) -> anyhow::Result<Self> {
        let whole: Value =
            serde_json::from_str(config).with_context(|| format!("{origin} is not JSON"))?;
        // Models that also see pictures keep their decoder's sizes apart.
        let value = if whole["text_config"].is_object() { &whole["text_config"] } else { &whole };
        let family = whole["model_type"].as_str().unwrap_or_default();
        let gemma = family.starts_with("gemma3");
        let untold = |key: &str| {
            GEMMA3_TEXT_SIZES.iter().find(|(name, _)| gemma && *name == key).map(|(_, size)| *size)
        };
        let size = |key: &str| value[key].as_u64().filter(|size| *size > 0).or_else(|| untold(key));
        let needed = |key: &str| size(key).with_context(|| format!("{origin} has no size {key}"));
        let (hidden, heads) = (needed("hidden_size")?, needed("num_attention_heads")?);
        let flag = |key: &str, default| value[key].as_bool().unwrap_or(default);
        let shape = Self {
            vocab: needed("vocab_size")?,
            hidden,
            layers: needed("num_hidden_layers")?,
            heads,
            kv_heads: size("num_key_value_heads").unwrap_or(heads),
            head_dim: size("head_dim").unwrap_or(hidden / heads),
            intermediate: needed("intermediate_size")?,
            tied: flag("tie_word_embeddings", gemma),
            bias: flag("attention_bias", family == "qwen2"),
            head_norms: family == "qwen3" || gemma,
            norms: if gemma { 4 } else { 2 },
        };
        if shape.head_dim == 0 {
            bail!("{origin}: {heads} heads do not fit into hidden_size {hidden}");
        }
        Ok(shape)
    }

    /// Numbers of all weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = self.hidden * (2 * q + 2 * kv);
        let bias = if self.bias { q + 2 * kv } else { 0 };
        let norms = self.norms * self.hidden + if self.head_norms { 2 * self.head_dim } else { 0 };
        let layer = attention + bias + norms + 3 * self.hidden * self.intermediate;
        let tables = if self.tied { 1 } else { 2 };
        tables * self.vocab * self.hidden + self.layers * layer + self.hidden
    }

    /// Numbers that one token's keys and values take.
    #[must_use]
    pub fn cached(&self) -> u64 {
        2 * self.layers * self.kv_heads * self.head_dim
    }

    /// Numbers that one token's way through one layer leaves for the backward pass: six rows of
    /// the hidden size (norms, sums, projections), queries, keys and values before and after their
    /// rotation, the mixed values, and four rows of the inner size (gate, up, activation, product).
    #[must_use]
    pub fn activations(&self) -> u64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        6 * self.hidden + 2 * (q + 2 * kv) + q + 4 * self.intermediate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_that_were_published() {
        let parameters = |config: &str| Shape::parse(config, "x").unwrap().parameters();
        // Qwen3-0.6B, Llama-3.2-1B and Gemma-3-270M, by the headers of their published weights.
        let qwen3 = r#"{"model_type":"qwen3","vocab_size":151936,"hidden_size":1024,"num_hidden_layers":28,
            "num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"intermediate_size":3072,
            "tie_word_embeddings":true,"attention_bias":false}"#;
        assert_eq!(parameters(qwen3), 596_049_920);
        let llama = r#"{"model_type":"llama","vocab_size":128256,"hidden_size":2048,"num_hidden_layers":16,
            "num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"intermediate_size":8192,
            "tie_word_embeddings":true}"#;
        assert_eq!(parameters(llama), 1_235_814_400);
        let gemma = r#"{"model_type":"gemma3_text","vocab_size":262144,"hidden_size":640,"num_hidden_layers":18,
            "num_attention_heads":4,"num_key_value_heads":1,"head_dim":256,"intermediate_size":2048}"#;
        assert_eq!(parameters(gemma), 268_098_176);
        let nested = format!(r#"{{"model_type":"gemma3","text_config":{gemma}}}"#);
        assert_eq!(parameters(&nested), 268_098_176);
        // Gemma-3-4B's decoder, whose file leaves out what equals the defaults.
        let seeing = r#"{"model_type":"gemma3","text_config":{"model_type":"gemma3_text",
            "hidden_size":2560,"intermediate_size":10240,"num_hidden_layers":34}}"#;
        assert_eq!(parameters(seeing), 3_880_263_168);
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = Shape::parse("{\"hidden_size\": 8}", "a/config.json").unwrap_err().to_string();
        assert_eq!(text, "a/config.json has no size num_attention_heads");
        assert!(Shape::parse("no", "a").unwrap_err().to_string().contains("a is not JSON"));
    }
}
