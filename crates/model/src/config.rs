//! The one decoder described by data: what sets the published families apart, and which tensors
//! follow from it. Reading and writing `config.json` is done in the files beside.

mod layout;
mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::{ModelError, Tokenizer};

/// What stands for a part of a picture in Gemma 3.
const PICTURE: &str = "<image_soft_token>";

/// Which published layout the names and defaults follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    /// Text only.
    Gemma3,
}

/// A pre-norm decoder with RMSNorm, rotary positions, grouped-query attention and a gated
/// feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Ids that can be written, the tokenizer's; the rows after them only pad the matrices.
    pub ids: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub activation: Activation,
    pub rms_norm_eps: f64,
    /// Norms scale by 1 + w instead of w.
    pub norm_offset: bool,
    /// What attention and feed-forward give is normed before it is added.
    pub post_norms: bool,
    /// Queries and keys are normed, each head by itself.
    pub qk_norm: bool,
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Embeddings are multiplied by the square root of `hidden_size`.
    pub scaled_embedding: bool,
    /// Attention scores are divided by its square root.
    pub query_pre_attn_scalar: f64,
    /// Of the layers that see the whole text.
    pub rope: Rope,
    /// The layers that see only a window.
    pub local: Option<Local>,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
    /// Ids that end a text; the first one stands for all of them.
    pub stops: Vec<u32>,
    /// `bos_token_id` and `pad_token_id`, kept for whoever reads the directory.
    pub bos: Option<u32>,
    pub pad: Option<u32>,
}

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// With the tanh approximation (Hendrycks & Gimpel 2016, §2).
    GeluTanh,
}

/// Rotary positions: the base of the frequencies, and how they are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Option<RopeScaling>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, in between a mixture.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

/// Sliding-window attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Tokens that are seen, the reading one included.
    pub window: usize,
    pub rope: Rope,
    /// By layer: whether it is local.
    pub layers: Vec<bool>,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// The `model_type` of `config.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }
}

impl ModelConfig {
    /// The window of a local layer; none if the layer sees the whole text.
    #[must_use]
    pub fn local(&self, layer: usize) -> Option<&Local> {
        self.local.as_ref().filter(|local| local.layers[layer])
    }

    /// Limits what can be written to the tokenizer's ids of text. `origin` names the model in errors.
    ///
    /// # Errors
    /// A tokenizer that writes ids, or an end of text, that the model does not have.
    pub fn fit(&mut self, tokenizer: &Tokenizer, origin: &str) -> Result<(), ModelError> {
        let refused = |reason| Err(ModelError::Config { origin: origin.to_owned(), reason });
        let (plain, vocab) = (tokenizer.plain_size(), self.vocab_size);
        if plain > vocab {
            let last = plain - 1;
            return refused(format!(
                "its tokenizer has ids up to {last} but its config.json only {vocab} tokens"
            ));
        }
        self.ids = tokenizer.vocab_size().min(vocab);
        // The larger of Gemma 3 see pictures too, and have an id for a part of one after all that the
        // smaller have: with it no smaller one could be their weak model.
        let picture = tokenizer.id_of(PICTURE).map(|id| id as usize);
        if let Some(id) = picture.filter(|id| self.family == Family::Gemma3 && id + 1 == self.ids) {
            self.ids = id;
        }
        match self.stops.iter().find(|id| **id as usize >= self.ids) {
            Some(id) => refused(format!(
                "eos_token_id {id} is outside the {} tokens of its tokenizer",
                self.ids
            )),
            None => Ok(()),
        }
    }

    /// What queries are multiplied by.
    #[must_use]
    pub fn query_scale(&self) -> f64 {
        1.0 / self.query_pre_attn_scalar.sqrt()
    }
}
