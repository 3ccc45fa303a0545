//! The training forward against candle-transformers' own Llama and Qwen2 on the same weights.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, qwen2};
use model::{Decoder, Family, ModelConfig};

use crate::tiny;

const LEN: usize = 17;

fn builder(decoder: &Decoder) -> VarBuilder<'static> {
    let tensors: HashMap<String, Tensor> = decoder.tensors().clone().into_iter().collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn llama_logits(decoder: &Decoder, text: &[u32]) -> Vec<f64> {
    let c: &ModelConfig = decoder.config();
    let config = llama::Config {
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        vocab_size: c.vocab_size,
        num_hidden_layers: c.layers,
        num_attention_heads: c.heads,
        num_key_value_heads: c.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: c.rms_norm_eps,
        rope_theta: c.rope.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: c.max_position_embeddings,
        tie_word_embeddings: c.tie_word_embeddings,
    };
    let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
    let oracle = llama::Llama::load(builder(decoder), &config).unwrap();
    let input = tiny::batch(&[text]);
    tiny::rows(&oracle.forward(&input, 0, &mut cache).unwrap()).remove(0)
}

fn qwen2_logits(decoder: &Decoder, text: &[u32]) -> Vec<f64> {
    let c: &ModelConfig = decoder.config();
    let config = qwen2::Config {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.layers,
        num_attention_heads: c.heads,
        num_key_value_heads: c.kv_heads,
        max_position_embeddings: c.max_position_embeddings,
        sliding_window: c.max_position_embeddings,
        max_window_layers: c.layers,
        tie_word_embeddings: c.tie_word_embeddings,
        rope_theta: c.rope.theta,
        rms_norm_eps: c.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let mut oracle = qwen2::ModelForCausalLM::new(&config, builder(decoder)).unwrap();
    let input = tiny::batch(&[text]);
    tiny::rows(&oracle.forward(&input, 0).unwrap().squeeze(0).unwrap()).remove(0)
}

#[test]
fn logits_agree_with_candle_transformers() {
    let text = tiny::ids(7, LEN);
    for kind in
        [tiny::LLAMA, tiny::QWEN2].map(|kind| [kind, tiny::Kind { tied: true, ..kind }]).concat()
    {
        let decoder = tiny::decoder(kind, DType::F32);
        let own = tiny::train_logits(&decoder, &text);
        for len in [1, 2, 9, LEN] {
            let oracle = match kind.family {
                Family::Llama => llama_logits(&decoder, &text[..len]),
                _ => qwen2_logits(&decoder, &text[..len]),
            };
            let off = tiny::distance(&[oracle], &own[len - 1..len]);
            assert!(off < 2e-5, "{kind:?} differs by {off:e} at length {len}");
        }
    }
}
