//! `coordinator model tiny`: a small Qwen2-shaped model with random weights and a byte-level BPE
//! tokenizer trained on a data set's text. It is for smoke runs; it knows nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use miniature::{TensorSpec, random_safetensors};
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::cli::TinyArgs;
use crate::output::say;
use crate::source::read_problems;

const END: &str = "<|endoftext|>";
const WIDTH: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KEY_VALUE_HEADS: usize = 2;
const INNER: usize = 128;
const MAX_POSITIONS: usize = 2048;
/// As in the models of this family.
const INITIAL_STD: f64 = 0.02;

/// Makes the first logits uneven enough that a few steps of a smoke run show a falling loss.
const FINAL_NORM: f64 = 4.0;

/// Pairs seen less often are not merged.
const MIN_FREQUENCY: u64 = 2;

#[derive(Debug, thiserror::Error)]
#[error("{0} is not empty: choose another directory, a new or an empty one")]
struct NotEmpty(PathBuf);

/// Returns the exit code.
///
/// # Errors
/// Data that cannot be read, or a directory that is not empty or cannot be written.
pub fn tiny(args: &TinyArgs) -> anyhow::Result<u8> {
    let problems = read_problems(&args.tokenizer_from.join("train.jsonl"))?;
    let texts = problems.into_iter().flat_map(|p| [Some(p.question), p.solution]).flatten();
    claim(&args.out)?;
    let (tokenizer, vocab) = train_tokenizer(texts, args.vocab as usize)?;
    write(&args.out, "tokenizer.json", tokenizer.as_bytes())?;
    write(&args.out, "config.json", config_json(vocab, vocab - 1).as_bytes())?;
    let weights = random_safetensors(&specs(vocab), args.seed)?;
    write(&args.out, "model.safetensors", &weights)?;
    let (out, bytes) = (args.out.display(), weights.len());
    say(&format!("{out}: {vocab} tokens, {bytes} bytes of random weights"));
    Ok(0)
}

/// Makes a directory, or takes an empty one.
///
/// # Errors
/// A directory that holds something, or cannot be made.
pub(crate) fn claim(out: &Path) -> anyhow::Result<()> {
    let made = fs::create_dir_all(out).and_then(|()| fs::read_dir(out));
    let holds = made.with_context(|| format!("cannot create {}", out.display()))?.next().is_some();
    if holds { Err(NotEmpty(out.to_owned()).into()) } else { Ok(()) }
}

fn write(out: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let path = out.join(name);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The `tokenizer.json` and the number of its tokens; the end token is the last.
fn train_tokenizer(
    texts: impl Iterator<Item = String> + Send,
    vocab: usize,
) -> anyhow::Result<(String, usize)> {
    let fault = |error: tokenizers::Error| io::Error::other(error.to_string());
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        ByteLevel,
        PostProcessorWrapper,
        ByteLevelDecoder,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(bytes))
    .with_decoder(Some(ByteLevelDecoder::default()))
    .build()
    .map_err(fault)?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab - 1)
        .min_frequency(MIN_FREQUENCY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts).map_err(fault).context("cannot train the tokenizer")?;
    tokenizer.add_special_tokens([AddedToken::from(END, true)]).map_err(fault)?;
    let json = tokenizer.to_string(true).map_err(fault)?;
    Ok((json, tokenizer.get_vocab_size(true)))
}

fn config_json(vocab: usize, end: usize) -> String {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": true,
        "use_sliding_window": false,
        "bos_token_id": null,
        "eos_token_id": end,
        "torch_dtype": "float32",
    });
    format!("{config:#}\n")
}

/// Names and shapes of a Qwen2 with tied embeddings and biases on queries, keys and values.
fn specs(vocab: usize) -> Vec<TensorSpec> {
    let narrow = WIDTH / HEADS * KEY_VALUE_HEADS;
    let mut specs = vec![
        TensorSpec::new("model.embed_tokens.weight", &[vocab, WIDTH], 0.0, INITIAL_STD),
        TensorSpec::new("model.norm.weight", &[WIDTH], FINAL_NORM, 0.0),
    ];
    for layer in 0..LAYERS {
        let mut push = |name: &str, shape: &[usize], mean: f64, std: f64| {
            specs.push(TensorSpec::new(format!("model.layers.{layer}.{name}"), shape, mean, std));
        };
        for (name, rows) in [("q_proj", WIDTH), ("k_proj", narrow), ("v_proj", narrow)] {
            push(&format!("self_attn.{name}.weight"), &[rows, WIDTH], 0.0, INITIAL_STD);
            push(&format!("self_attn.{name}.bias"), &[rows], 0.0, 0.0);
        }
        push("self_attn.o_proj.weight", &[WIDTH, WIDTH], 0.0, INITIAL_STD);
        push("mlp.gate_proj.weight", &[INNER, WIDTH], 0.0, INITIAL_STD);
        push("mlp.up_proj.weight", &[INNER, WIDTH], 0.0, INITIAL_STD);
        push("mlp.down_proj.weight", &[WIDTH, INNER], 0.0, INITIAL_STD);
        push("input_layernorm.weight", &[WIDTH], 1.0, 0.0);
        push("post_attention_layernorm.weight", &[WIDTH], 1.0, 0.0);
    }
    specs
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    fn args(root: &Path, out: &str) -> TinyArgs {
        let (tokenizer_from, out) = (root.to_owned(), root.join(out));
        TinyArgs { tokenizer_from, out, vocab: 300, seed: 1 }
    }

    #[test]
    fn the_directory_is_complete_and_repeats() {
        let root = tempfile::tempdir().unwrap();
        let line = r##"{"question": "How many apples are there in the apple tree?", "answer": "There are 7 apples, and the apples are ripe.\n#### 7"}"##;
        fs::write(root.path().join("train.jsonl"), format!("{line}\n").repeat(3)).unwrap();
        assert_eq!(tiny(&args(root.path(), "a")).unwrap(), 0);
        assert_eq!(tiny(&args(root.path(), "b")).unwrap(), 0);
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            let read = |dir: &str| fs::read(root.path().join(dir).join(name)).unwrap();
            assert!(read("a") == read("b"), "{name}");
        }
        let text = tiny(&args(root.path(), "a")).unwrap_err().to_string();
        assert!(text.contains("is not empty") && text.contains("choose another"), "{text}");

        let tokenizer = Tokenizer::from_file(root.path().join("a/tokenizer.json")).unwrap();
        let config = fs::read_to_string(root.path().join("a/config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["vocab_size"], tokenizer.get_vocab_size(true));
        assert_eq!(config["eos_token_id"], tokenizer.token_to_id(END).unwrap());
        let text = "Ünrelated text: 3 äpples\n#### 3";
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
        let merged = tokenizer.encode(" apples", false).unwrap();
        assert!(merged.len() < " apples".len(), "{:?}", merged.get_tokens());
    }
}
