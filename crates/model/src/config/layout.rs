//! The tensors that a configuration asks for, and whether its sizes can be. Families are not
//! told apart here.

use super::{ModelConfig, RopeScaling};

impl ModelConfig {
    /// Every tensor of the model with its shape, under Hugging Face's names.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.hidden_size;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for layer in 0..self.layers {
            let named = |(name, shape): (String, Vec<usize>)| {
                (format!("model.layers.{layer}.{name}"), shape)
            };
            all.extend(self.attention_tensors().into_iter().map(named));
            all.extend(self.mlp_tensors().into_iter().map(named));
        }
        all.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        all
    }

    fn attention_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, hd) = (self.hidden_size, self.head_dim);
        let (q, kv) = (self.heads * hd, self.kv_heads * hd);
        let mut all = vec![("input_layernorm.weight".to_owned(), vec![d])];
        for (name, out) in [("q", q), ("k", kv), ("v", kv)] {
            all.push((format!("self_attn.{name}_proj.weight"), vec![out, d]));
            if self.qkv_bias {
                all.push((format!("self_attn.{name}_proj.bias"), vec![out]));
            }
        }
        if self.qk_norm {
            all.push(("self_attn.q_norm.weight".to_owned(), vec![hd]));
            all.push(("self_attn.k_norm.weight".to_owned(), vec![hd]));
        }
        all.push(("self_attn.o_proj.weight".to_owned(), vec![d, q]));
        if self.output_bias {
            all.push(("self_attn.o_proj.bias".to_owned(), vec![d]));
        }
        all
    }

    fn mlp_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, ff) = (self.hidden_size, self.intermediate_size);
        let mut all = vec![("post_attention_layernorm.weight".to_owned(), vec![d])];
        if self.post_norms {
            all.push(("pre_feedforward_layernorm.weight".to_owned(), vec![d]));
            all.push(("post_feedforward_layernorm.weight".to_owned(), vec![d]));
        }
        all.push(("mlp.gate_proj.weight".to_owned(), vec![ff, d]));
        all.push(("mlp.up_proj.weight".to_owned(), vec![ff, d]));
        all.push(("mlp.down_proj.weight".to_owned(), vec![d, ff]));
        all
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("sliding_window", self.local.as_ref().map_or(1, |local| local.window)),
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
        self.check_numbers()?;
        match self.stops.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(format!("eos_token_id {id} is outside the {} tokens", self.vocab_size)),
            None if self.stops.is_empty() => {
                Err("no eos_token_id: name the token that ends a text".to_owned())
            }
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), String> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.rms_norm_eps) || !positive(self.query_pre_attn_scalar) {
            return Err("rms_norm_eps and query_pre_attn_scalar must be positive".to_owned());
        }
        for rope in [Some(self.rope), self.local.as_ref().map(|l| l.rope)].into_iter().flatten() {
            let sound = match rope.scaling {
                None => true,
                Some(RopeScaling::Linear { factor }) => positive(factor),
                Some(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                }) => [factor, low, high, original].into_iter().all(positive) && low < high,
            };
            if !positive(rope.theta) || !sound {
                return Err(format!("rotary positions cannot be {rope:?}"));
            }
        }
        Ok(())
    }
}
