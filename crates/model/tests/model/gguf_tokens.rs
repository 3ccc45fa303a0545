//! Tokenizers of GGUF files: ids worked out by hand from the rules of llama.cpp, and, where the real
//! file is, what llama.cpp itself writes.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use model::{ModelSource, Tokenizer};
use serde_json::{Value as Json, json};

use crate::gguf_files::{Arch, File};

fn tokenizer(change: impl FnOnce(&mut File)) -> Result<Tokenizer, String> {
    let mut file = File::new(Arch::Llama, |_| GgmlDType::F32);
    change(&mut file);
    let dir = file.write();
    let source = ModelSource::parse(dir.path().join("model.gguf").to_str().unwrap()).unwrap();
    source.outline().map(|outline| outline.tokenizer).map_err(|e| e.to_string())
}

#[test]
fn the_best_scored_neighbours_are_joined_first() {
    let t = tokenizer(|_| {}).unwrap();
    for (text, ids) in [
        // "ba" beats "ab", "aba" needs "a" + "ba" or "ab" + "a".
        ("ab", vec![8]),
        ("abab", vec![11, 6]),
        ("abba", vec![8, 9]),
        ("bab", vec![9, 6]),
        // Spaces: "▁▁" (-5) loses to "▁a" (-4).
        ("b a", vec![6, 10]),
        ("b  a", vec![6, 7, 10]),
        ("b   ", vec![6, 15, 7]),
        // Line ends stand alone, the longest first; bytes of a character that is no token.
        ("a\n\n\nb", vec![5, 14, 4, 6]),
        ("aé", vec![5, 12, 13]),
        ("a<end_of_turn>b", vec![5, 3, 6]),
    ] {
        assert_eq!(t.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(t.decode(&ids).unwrap(), text);
    }
    assert!(t.pieces().iter().skip(3).take(5).eq(["", "\n", "a", "b", " "]));
}

#[test]
fn a_space_may_stand_before_every_text() {
    let t = tokenizer(|f| f.set("tokenizer.ggml.add_space_prefix", Value::Bool(true))).unwrap();
    // "ab" (-3) beats "▁a" (-4).
    assert_eq!(t.encode("ab").unwrap(), [7, 8]);
    assert_eq!(t.decode(&[7, 8]).unwrap(), "ab");
}

fn byte_level(pre: &str) -> Result<Tokenizer, String> {
    byte_level_with(pre, |_| {})
}

fn byte_level_with(pre: &str, change: impl FnOnce(&mut File)) -> Result<Tokenizer, String> {
    let text = |text: &str| Value::String(text.to_owned());
    let list = |all: &[&str]| Value::Array(all.iter().map(|t| text(t)).collect());
    let tokens = [
        "1", "2", "3", "4", "Ġ", "a", "Ċ", "Ġa", "12", "123", "1234", "34", "Ã", "©", "Ã©", "<eos>",
    ];
    tokenizer(|f| {
        f.set("tokenizer.ggml.model", text("gpt2"));
        f.set("tokenizer.ggml.pre", text(pre));
        f.set("tokenizer.ggml.tokens", list(&tokens));
        let kinds = (0..16).map(|i| Value::I32(if i == 15 { 3 } else { 1 })).collect();
        f.set("tokenizer.ggml.token_type", Value::Array(kinds));
        f.set("tokenizer.ggml.eos_token_id", Value::U32(15));
        let merges = ["1 2", "12 3", "123 4", "3 4", "Ġ a", "Ã ©"];
        f.set("tokenizer.ggml.merges", list(&merges));
        change(f);
    })
}

/// The rules of llama.cpp's `llama_vocab::impl::load`.
#[test]
fn a_beginning_that_is_not_mentioned_is_put_before_texts_of_the_kinds_that_have_one() {
    const BEGINS: &str = "tokenizer.ggml.add_bos_token";
    let begins = |t: Result<Tokenizer, String>| {
        let json: Json = serde_json::from_str(&t.unwrap().json().unwrap()).unwrap();
        json["post_processor"]["single"][0]["SpecialToken"].is_object()
    };
    let untold = |f: &mut File| f.unset(BEGINS);
    assert!(begins(tokenizer(untold)));
    let denied = |f: &mut File| f.set(BEGINS, Value::Bool(false));
    assert!(!begins(tokenizer(denied)));
    for (pre, expected) in [("llama-bpe", true), ("llama3", true), ("qwen2", false)] {
        assert_eq!(begins(byte_level_with(pre, untold)), expected, "{pre}");
        assert!(!begins(byte_level_with(pre, denied)), "{pre}");
    }
    let unnamed = |f: &mut File| {
        f.unset(BEGINS);
        f.unset("tokenizer.ggml.bos_token_id");
    };
    assert!(!begins(byte_level_with("llama-bpe", unnamed)));
}

#[test]
fn byte_level_tokenizers_split_as_their_name_says() {
    for (pre, text, ids) in [
        ("llama-bpe", "1234 a\n", vec![9, 3, 7, 6]),
        ("qwen2", "1234 a\n", vec![0, 1, 2, 3, 7, 6]),
        ("gpt-2", "1234 a\n", vec![10, 7, 6]),
        ("smollm", "1234 a\n", vec![0, 1, 2, 3, 7, 6]),
        ("qwen2", "e\u{301}", vec![14]),
        ("llama-bpe", "é<eos>", vec![14, 15]),
    ] {
        let t = byte_level(pre).unwrap();
        assert_eq!(t.encode(text).unwrap(), ids, "{pre} {text:?}");
    }
    let message = byte_level("tekken").err().unwrap();
    assert!(message.contains("\"tekken\" is not supported, only llama-bpe"), "{message}");
}

#[test]
fn lists_at_odds_with_each_other_are_refused() {
    let message =
        tokenizer(|f| f.set("tokenizer.ggml.scores", Value::Array(vec![Value::F32(0.0)])));
    assert!(message.err().unwrap().contains("16 entries, tokenizer.ggml.scores 1"));
    let message = tokenizer(|f| f.set("tokenizer.ggml.eos_token_id", Value::U32(16)));
    assert!(message.err().unwrap().contains("eos_token_id 16 is outside the 16 tokens"));
}

#[test]
fn the_chat_template_and_its_tokens_are_those_of_a_model_directory() {
    let config = |change: fn(&mut File)| {
        let mut file = File::new(Arch::Qwen3, |_| GgmlDType::F32);
        change(&mut file);
        let dir = file.write();
        let source = ModelSource::parse(dir.path().join("model.gguf").to_str().unwrap()).unwrap();
        let extras = source.extras().unwrap();
        assert_eq!(source.outline().unwrap().extras, extras);
        assert_eq!(extras.len(), 1);
        serde_json::from_str::<Json>(&extras["tokenizer_config.json"]).unwrap()
    };
    let special = json!({"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"});
    assert_eq!(config(|_| {}), special);
    let with = config(|file| {
        file.set("tokenizer.chat_template", Value::String("{{ messages }}".to_owned()));
        file.set("tokenizer.ggml.padding_token_id", Value::U32(3));
    });
    let expected = json!({
        "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
        "pad_token": "<end_of_turn>", "chat_template": "{{ messages }}",
    });
    assert_eq!(with, expected);
}

/// llama.cpp's ids of one question and its answer, by `tests/parity/llama_cpp.py`.
#[test]
fn the_real_file_is_written_as_llama_cpp_writes_it() {
    use std::io::Write;
    let Some(path) = std::env::var_os("TANDEM_TEST_GGUF") else {
        // Around the capture, so that a person sees it.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the_real_file_is_written_as_llama_cpp_writes_it: no GGUF file, set \
             TANDEM_TEST_GGUF to Gemma-3-270M's"
        );
        return;
    };
    let source = ModelSource::parse(path.to_str().unwrap()).unwrap();
    let outline = source.outline().unwrap();
    assert_eq!(outline.config.stops, [1, 106]);
    assert_eq!(outline.config.parameters(), 268_098_176);
    let golden: Vec<(String, Vec<u32>)> =
        serde_json::from_str(include_str!("golden/gemma3_tokens.json")).unwrap();
    for (text, ids) in golden {
        assert_eq!(outline.tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), outline.config.to_json()).unwrap();
    let json = serde_json::from_str(&outline.tokenizer.json().unwrap()).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), as_the_hub_writes(json)).unwrap();
    let hub = ModelSource::Directory(dir.path().to_owned()).outline().unwrap().tokenizer;
    assert_eq!(hub.difference(&outline.tokenizer), None);
    assert_eq!(hub.fingerprint(), outline.tokenizer.fingerprint());
}

/// Gemma's as the Hub has it: spaces marked, what nobody uses not special, and one token more, which
/// only models that see have.
fn as_the_hub_writes(mut json: Json) -> String {
    let marked = |token: &str| token.replace(' ', "▁");
    // Those of the file are of other spellings.
    json["model"]["merges"] = json!([]);
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    *vocab = vocab.iter().map(|(token, id)| (marked(token), id.clone())).collect();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for token in added.iter_mut() {
        let content = marked(token["content"].as_str().unwrap());
        if content.starts_with("<unused") {
            token["special"] = json!(false);
        }
        token["content"] = json!(content);
    }
    let mut more = added[0].clone();
    more["id"] = json!(262_144);
    more["content"] = json!("<image_soft_token>");
    added.push(more);
    json.to_string()
}
