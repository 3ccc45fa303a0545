//! GGUF files: every architecture gives the decoder that the same weights give in a directory,
//! quantised weights compute what they dequantise to, and each fault is one clear error.

use std::fs;

use candle_core::DType;
use candle_core::quantized::{GgmlDType, gguf_file};
use model::{Decoder, ModelSource, Placement, RaggedEngine};
use tempfile::TempDir;

use crate::gguf_files::{Arch, File, WORDS, hub_config, hub_tensors};
use crate::tiny::{distance, feed};

fn source(dir: &TempDir) -> ModelSource {
    ModelSource::parse(dir.path().join("model.gguf").to_str().unwrap()).unwrap()
}

fn dense(dir: &TempDir) -> Decoder {
    source(dir).load(0, &Placement::cpu(DType::F32)).unwrap().decoder().unwrap()
}

fn quantised(dir: &TempDir) -> Decoder {
    source(dir).load_frozen(0, &Placement::cpu(DType::F32)).unwrap().0
}

fn refusal(dir: &TempDir) -> String {
    source(dir).load_frozen(0, &Placement::cpu(DType::F32)).err().unwrap().to_string()
}

fn logits(decoder: &Decoder, text: &[u32]) -> Vec<Vec<f64>> {
    feed(&mut RaggedEngine::new(decoder.clone(), 1, 16).unwrap(), 0, text)
}

const TEXT: [u32; 9] = [2, 5, 9, 7, 8, 5, 10, 4, 6];

#[test]
fn every_architecture_is_the_decoder_of_its_directory() {
    for arch in Arch::ALL {
        let dir = File::new(arch, |_| GgmlDType::F32).write();
        let outline = source(&dir).outline().unwrap();
        let expected = Decoder::new(hub_config(arch), hub_tensors(arch)).unwrap();
        assert_eq!(outline.config.tensors(), hub_config(arch).tensors(), "{arch:?}");
        assert_eq!(outline.config.stops, [1, 3], "{arch:?}");
        for found in [dense(&dir), quantised(&dir)] {
            let off = distance(&logits(&found, &TEXT), &logits(&expected, &TEXT));
            assert!(off < 2e-5, "{arch:?}: {off:e} apart");
        }
        for (name, tensor) in dense(&dir).tensors() {
            let apart = (tensor - &hub_tensors(arch)[name]).unwrap().abs().unwrap();
            let apart: f32 = apart.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
            assert!(apart < 1e-6, "{arch:?} {name}: {apart:e} apart");
        }
    }
}

/// Activations are rounded on the way: to one part in 65,534 of the largest of a group by our products,
/// in 254 by candle's, which multiplies what ours do not know.
#[test]
fn quantised_weights_compute_what_they_dequantise_to() {
    use GgmlDType::{Q4_0, Q4_1, Q4K, Q5_0, Q5K, Q6K, Q8_0};
    let ours = if cfg!(target_arch = "x86_64") { 2e-4 } else { 0.05 };
    let kinds = [Q8_0, Q5_0, Q4_0, Q4K, Q5K, Q6K].map(|kind| (kind, ours));
    for (kind, bound) in kinds.into_iter().chain([(Q4_1, 0.05)]) {
        for arch in [Arch::Llama, Arch::Gemma3] {
            let dir = File::new(arch, |_| kind).write();
            let (plain, kept) = (logits(&dense(&dir), &TEXT), logits(&quantised(&dir), &TEXT));
            let spread = distance(&plain[..4], &plain[4..8]);
            let off = distance(&kept, &plain);
            assert!(off < bound * spread, "{kind:?} {arch:?}: {off:e} apart of {spread:e}");
            assert!(off > 0.0, "{kind:?} {arch:?} was dequantised");
        }
    }
}

#[test]
fn one_tokenizer_is_read_whatever_the_weights_are() {
    let dir = File::new(Arch::Gemma3, |_| GgmlDType::Q8_0).write();
    let (_, tokenizer) = source(&dir).load_frozen(0, &Placement::cpu(DType::F32)).unwrap();
    assert_eq!(source(&dir).outline().unwrap().tokenizer.difference(&tokenizer), None);
    assert_eq!(tokenizer.vocab_size(), WORDS.len());
    let again = model::Tokenizer::from_json(&tokenizer.json().unwrap(), "t.json").unwrap();
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    assert_eq!(again.encode("ab ba\n").unwrap(), tokenizer.encode("ab ba\n").unwrap());
}

#[test]
fn what_is_no_whole_file_is_refused() {
    let dir = File::new(Arch::Llama, |_| GgmlDType::Q8_0).write();
    let path = dir.path().join("model.gguf");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 600]).unwrap();
    let message = refusal(&dir);
    assert!(message.contains("is cut short: tensor ") && message.contains("again"), "{message}");
    fs::write(&path, &bytes[..200]).unwrap();
    assert!(refusal(&dir).contains("damaged header"), "{}", refusal(&dir));
    fs::write(&path, b"PK").unwrap();
    assert!(refusal(&dir).contains("does not begin as a GGUF file"), "{}", refusal(&dir));
    fs::remove_file(&path).unwrap();
    assert!(refusal(&dir).contains("model.gguf does not exist"), "{}", refusal(&dir));
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let message = |change: &dyn Fn(&mut File)| {
        let mut file = File::new(Arch::Llama, |_| GgmlDType::F32);
        change(&mut file);
        refusal(&file.write())
    };
    let text = |text: &str| gguf_file::Value::String(text.to_owned());
    let found = message(&|f| f.set("general.architecture", text("phi3")));
    assert!(found.contains("\"phi3\"") && found.contains("llama, qwen2, qwen3, gemma3"), "{found}");
    let found = message(&|f| drop(f.tensors.remove("blk.1.ffn_up.weight")));
    assert!(found.contains("lacks tensor blk.1.ffn_up.weight"), "{found}");
    let found = message(&|f| drop(f.keys.remove("tokenizer.ggml.model")));
    assert!(found.contains("lacks tokenizer.ggml.model"), "{found}");
    let found = message(&|f| f.set("tokenizer.ggml.model", text("t5")));
    assert!(found.contains("\"t5\" is not supported"), "{found}");
    let found = message(&|f| drop(f.keys.remove("llama.block_count")));
    assert!(found.contains("lacks llama.block_count"), "{found}");
    let found = message(&|f| f.set("llama.block_count", text("two")));
    assert!(found.contains("llama.block_count is not a whole number"), "{found}");
    let found = message(&|f| f.set("llama.feed_forward_length", gguf_file::Value::U32(512)));
    assert!(found.contains("[256, 256]") && found.contains("[512, 256]"), "{found}");
    let found = message(&|f| f.put("blk.0.attn_norm.weight", vec![f32::NAN; 256]));
    assert!(found.contains("NaN or infinity at element 0"), "{found}");
}

#[test]
fn an_unknown_quantisation_is_refused_with_the_known() {
    let dir = File::new(Arch::Llama, |_| GgmlDType::F32).write();
    let path = dir.path().join("model.gguf");
    let mut bytes = fs::read(&path).unwrap();
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    // After the name: the number of dimensions, two of them, the type.
    bytes[at + name.len() + 4 + 16] = 20;
    fs::write(&path, bytes).unwrap();
    let message = refusal(&dir);
    assert!(message.contains("ggml type 20") && message.contains("Q4_K_M"), "{message}");
}
