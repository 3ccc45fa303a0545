//! The two models' shapes, configuration and trained weights. What a forward does with them is
//! `model`'s.

use serde_json::json;

use crate::lexicon::{EOS, PAD, VOCAB_SIZE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Strong,
    Weak,
}

/// A decoder of the Llama kind with an untied head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub inner: usize,
}

/// Prompt and response together never need more.
const MAX_POSITIONS: usize = 128;

impl Role {
    pub const ALL: [Self; 2] = [Self::Strong, Self::Weak];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Weak => "weak",
        }
    }

    #[must_use]
    pub fn shape(self) -> Shape {
        match self {
            Self::Strong => Shape { width: 96, layers: 3, heads: 4, inner: 256 },
            Self::Weak => Shape { width: 64, layers: 2, heads: 4, inner: 176 },
        }
    }
}

/// The model's `config.json`.
#[must_use]
pub fn config_json(role: Role) -> String {
    let shape = role.shape();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.width / shape.heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": MAX_POSITIONS,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": false,
        "bos_token_id": null,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
    });
    format!("{config:#}\n")
}

/// The trained weights, a safetensors file in f32.
#[must_use]
pub fn weights(role: Role) -> &'static [u8] {
    match role {
        Role::Strong => include_bytes!("../../../assets/miniature/strong.safetensors"),
        Role::Weak => include_bytes!("../../../assets/miniature/weak.safetensors"),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;
    use crate::fresh_weights;

    fn names_and_shapes(bytes: &[u8]) -> Vec<(String, Vec<usize>)> {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let mut found: Vec<_> = file
            .iter()
            .map(|(name, view)| {
                assert_eq!(view.dtype(), Dtype::F32);
                (name.to_owned(), view.shape().to_vec())
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn parameter_counts_are_the_specified_ones() {
        for (role, count) in [(Role::Strong, 359_712), (Role::Weak, 118_848)] {
            let tensors = names_and_shapes(&fresh_weights(role, 0));
            let found: usize = tensors.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
            assert_eq!(found, count);
        }
    }

    #[test]
    fn shipped_weights_have_the_roles_shape_are_finite_and_small() {
        let mut bytes = 0;
        for role in Role::ALL {
            let shipped = weights(role);
            assert_eq!(names_and_shapes(shipped), names_and_shapes(&fresh_weights(role, 0)));
            bytes += shipped.len();
            for (name, view) in SafeTensors::deserialize(shipped).unwrap().iter() {
                let (values, rest) = view.data().as_chunks::<4>();
                assert!(rest.is_empty());
                let finite = values.iter().all(|value| f32::from_le_bytes(*value).is_finite());
                assert!(finite, "{} {name}", role.name());
            }
        }
        assert!(bytes < 3_000_000, "{bytes}");
    }

    #[test]
    fn the_configuration_states_the_shape() {
        let config: serde_json::Value = serde_json::from_str(&config_json(Role::Weak)).unwrap();
        assert_eq!(config["hidden_size"], 64);
        assert_eq!(config["head_dim"], 16);
        assert_eq!(config["eos_token_id"], 1);
        assert_eq!(config["vocab_size"], 142);
        assert_eq!(config["tie_word_embeddings"], false);
    }
}
