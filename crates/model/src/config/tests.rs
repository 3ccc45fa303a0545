//! What each family's `config.json` comes to, and what is refused.

use serde_json::{Value, json};

use super::*;
use crate::ModelError;

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
    assert_eq!((config.rope.theta, config.stops.as_slice()), (5e5, &[3, 4, 5][..]));
    assert_eq!(ModelConfig::parse(&config.to_json(), None, "c").unwrap(), config);
    let llama = parse(&base("llama")).unwrap();
    assert_eq!((llama.rope.theta, llama.qkv_bias), (1e4, false));
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
    assert!(
        unknown.contains("\"gpt_neox\"") && unknown.contains("llama, qwen2, qwen3, gemma3_text"),
        "{unknown}"
    );
    let scaled = refusal(|v| v["rope_scaling"] = json!({"type": "dynamic", "factor": 8.0}));
    assert!(scaled.contains("c.json") && scaled.contains("\"dynamic\""), "{scaled}");
    assert!(refusal(|v| v["rope_parameters"] = json!({"rope_type": "yarn"})).contains("yarn"));
    let short = refusal(|v| v["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0}));
    assert!(short.contains("rope_scaling has no number low_freq_factor"), "{short}");
    let none = refusal(|v| v["layer_types"] = json!(["sliding_attention"]));
    assert!(none.contains("no sliding_window is used"), "{none}");
    assert!(refusal(|v| v["layer_types"] = json!(["chunked_attention"])).contains("chunked"));
    assert!(refusal(|v| v["layer_types"] = json!([])).contains("0 layers of 1"));
    assert!(refusal(|v| v["final_logit_softcapping"] = json!(30.0)).contains("final_logit"));
    assert!(refusal(|v| v["rope_theta"] = json!(-1.0)).contains("rotary"));
    assert!(refusal(|v| v["hidden_act"] = json!("gelu")).contains("gelu"));
    assert!(refusal(|v| v["num_key_value_heads"] = json!(3)).contains("no multiple"));
    assert!(refusal(|v| v["eos_token_id"] = json!(20)).contains("eos_token_id 20"));
    assert!(refusal(|v| v["vocab_size"] = json!(0)).contains("vocab_size"));
    let missing = refusal(|v| drop(v.as_object_mut().unwrap().remove("hidden_size")));
    assert!(missing.contains("hidden_size"), "{missing}");
}

#[test]
fn what_sets_the_families_apart_is_read() {
    let mut value = base("qwen3");
    value["rope_parameters"] = json!({"rope_theta": 1e6, "rope_type": "default"});
    let qwen3 = parse(&value).unwrap();
    assert_eq!((qwen3.head_dim, qwen3.qk_norm, qwen3.qkv_bias), (128, true, false));
    assert_eq!((qwen3.query_pre_attn_scalar, qwen3.rope.theta), (128.0, 1e6));
    value["attention_bias"] = json!(true);
    assert!(parse(&value).unwrap().output_bias);

    let mut value = base("llama");
    value["rope_scaling"] = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let llama = parse(&value).unwrap();
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    assert_eq!((llama.rope.scaling, llama.rope.theta), (Some(scaling), 1e4));
    let mut new = base("llama");
    new["rope_parameters"] = value["rope_scaling"].take();
    new["rope_parameters"]["rope_theta"] = json!(1e4);
    assert_eq!(parse(&new).unwrap(), llama);

    let mut value = base("qwen2");
    (value["use_sliding_window"], value["sliding_window"]) = (json!(true), json!(5));
    (value["num_hidden_layers"], value["max_window_layers"]) = (json!(3), json!(1));
    let local = parse(&value).unwrap().local.unwrap();
    assert_eq!((local.window, local.layers, local.rope.theta), (5, vec![false, true, true], 1e4));
    value["use_sliding_window"] = json!(false);
    assert_eq!(parse(&value).unwrap().local, None);
}

#[test]
fn gemma_is_read_in_old_and_new_names_and_from_a_model_that_sees() {
    let mut old = base("gemma3_text");
    old["num_hidden_layers"] = json!(7);
    old["sliding_window"] = json!(9);
    old["query_pre_attn_scalar"] = json!(16);
    old["rope_scaling"] = json!({"rope_type": "linear", "factor": 8.0});
    old["hidden_activation"] = json!("gelu_pytorch_tanh");
    let config = parse(&old).unwrap();
    assert_eq!((config.head_dim, config.query_scale(), config.rope.theta), (256, 0.25, 1e6));
    assert_eq!(config.rope.scaling, Some(RopeScaling::Linear { factor: 8.0 }));
    assert_eq!(config.activation, Activation::GeluTanh);
    assert!(config.tie_word_embeddings && config.norm_offset && config.post_norms);
    let local = config.local.clone().unwrap();
    assert_eq!((local.window, local.rope), (9, Rope { theta: 1e4, scaling: None }));
    assert_eq!(local.layers, [true, true, true, true, true, false, true]);
    assert!(config.local(5).is_none() && config.local(6).is_some());

    let types: Vec<_> =
        local.layers.iter().map(|l| if *l { read::LOCAL } else { read::GLOBAL }).collect();
    let mut new = base("gemma3_text");
    for name in ["num_hidden_layers", "sliding_window", "query_pre_attn_scalar"] {
        new[name] = old[name].clone();
    }
    new["layer_types"] = json!(types);
    new["rope_parameters"] = json!({
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    assert_eq!(parse(&new).unwrap(), config);

    let mut text = old.clone();
    text["model_type"] = json!("gemma3_text");
    text.as_object_mut().unwrap().remove("eos_token_id");
    let seeing = json!({"model_type": "gemma3", "text_config": text, "eos_token_id": [3, 4]});
    assert_eq!(parse(&seeing).unwrap(), config);
    old["hidden_activation"] = json!("gelu");
    assert!(parse(&old).unwrap_err().to_string().contains("\"gelu\""));
}

#[test]
fn every_family_is_read_back_as_it_was_written() {
    for family in Family::ALL {
        let mut value = base(family.name());
        (value["num_hidden_layers"], value["bos_token_id"]) = (json!(6), json!(2));
        value["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1,
            "high_freq_factor": 4, "original_max_position_embeddings": 16});
        (value["use_sliding_window"], value["sliding_window"]) = (json!(true), json!(5));
        value["max_window_layers"] = json!(4);
        let config = parse(&value).unwrap();
        assert_eq!(config.local.is_some(), family != Family::Llama);
        assert_eq!(ModelConfig::parse(&config.to_json(), None, "c").unwrap(), config, "{family:?}");
    }
}
