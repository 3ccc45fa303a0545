//! Directories and weights: what is written loads again, what is damaged is refused by name.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use model::{
    Decoder, ModelConfig, ModelFiles, ModelSource, Placement, RaggedEngine, RowInput, Tensors,
    Texts, Tokenizer, Want, from_safetensors, load, manifest, to_safetensors, write_directory,
};
use tempfile::TempDir;
use types::{Dtype, Hash, PolicyVersion};

use crate::tiny;

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "normalizer": null, "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": null, "decoder": null, "model": {"type": "WordLevel",
    "vocab": {"so": 0, "7": 1, ";": 2, "end": 3, "stop": 7}, "unk_token": "<unk>"}}"#;

fn tensors() -> Tensors {
    tiny::tensors(&tiny::config(tiny::QWEN2), DType::F32)
}

fn texts(config: &ModelConfig) -> Texts {
    let texts = [("config.json", config.to_json()), ("tokenizer.json", TOKENIZER.to_owned())];
    texts.map(|(name, text)| (name.to_owned(), text)).into()
}

fn directory(tensors: &Tensors) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let texts = texts(&tiny::config(tiny::QWEN2));
    write_directory(dir.path(), &texts, &to_safetensors(tensors).unwrap()).unwrap();
    dir
}

fn open(dir: &Path) -> Result<ModelFiles, String> {
    let source = ModelSource::parse(dir.to_str().unwrap()).unwrap();
    source.load(0, &Placement::cpu(DType::F32)).map_err(|e| e.to_string())
}

fn refusal(tensors: &Tensors) -> String {
    open(directory(tensors).path()).err().unwrap()
}

#[test]
fn a_directory_loads_as_it_was_written() {
    let written = tensors();
    let dir = directory(&written);
    let files = open(dir.path()).unwrap();
    let mut config = tiny::config(tiny::QWEN2);
    config.ids = 8;
    assert_eq!(files.config, config);
    assert_eq!(files.tokenizer.encode("so ; 7").unwrap(), [0, 2, 1]);
    assert_eq!(files.texts().unwrap(), texts(&config));
    assert_eq!(to_safetensors(&files.tensors).unwrap(), to_safetensors(&written).unwrap());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let source = ModelSource::parse(dir.path().to_str().unwrap()).unwrap();
    assert_eq!(source.outline().unwrap().config, files.config);
}

#[test]
fn rows_that_pad_the_vocabulary_are_no_logits() {
    let dir = directory(&tensors());
    let text = [0, 2, 7, 1, 6];
    let whole = tiny::train_logits(&tiny::decoder(tiny::QWEN2, DType::F32), &text);
    let cut: Vec<Vec<f64>> = whole.iter().map(|logits| logits[..8].to_vec()).collect();
    let found = open(dir.path()).unwrap().decoder().unwrap();
    assert!(tiny::distance(&tiny::train_logits(&found, &text), &cut) < 1e-6);
    let mut engine = RaggedEngine::new(found.clone(), 1, 8).unwrap();
    let logits = tiny::feed(&mut engine, 0, &text);
    assert!(tiny::distance(&logits, &cut) < 1e-5);
    assert_eq!(engine.step(&[]).unwrap().logits().unwrap().dims(), [0, 8]);
    let error = engine.step(&[RowInput { row: 0, tokens: &[8], want: Want::Last }]);
    assert_eq!(error.unwrap_err().to_string(), "token 8 is outside the 8 tokens");
    // The head is tied in this one.
    let kind = tiny::Kind { tied: true, ..tiny::QWEN2 };
    let mut config = tiny::config(kind);
    config.ids = 8;
    let tied = Decoder::new(config.clone(), tiny::tensors(&config, DType::F32)).unwrap();
    let whole = tiny::train_logits(&tiny::decoder(kind, DType::F32), &text);
    let cut: Vec<Vec<f64>> = whole.iter().map(|logits| logits[..8].to_vec()).collect();
    let mut engine = RaggedEngine::new(tied.clone(), 1, 8).unwrap();
    assert!(tiny::distance(&tiny::feed(&mut engine, 0, &text), &cut) < 1e-5);
}

#[test]
fn a_tokenizer_may_name_added_tokens_beyond_the_model_but_no_end() {
    let dir = directory(&tensors());
    let path = dir.path().join("tokenizer.json");
    let added = r#""added_tokens": [{"id": 23, "content": "<image>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}]"#;
    let words: Vec<String> =
        [4, 5, 6].into_iter().chain(8..23).map(|id: u32| format!(r#", "w{id}": {id}"#)).collect();
    let filled = TOKENIZER.replace(r#", "stop": 7"#, &format!(r#", "stop": 7{}"#, words.concat()));
    fs::write(&path, filled.replace(r#""added_tokens": []"#, added)).unwrap();
    let files = open(dir.path()).unwrap();
    assert_eq!((files.config.ids, files.tokenizer.vocab_size()), (23, 23));
    fs::write(&path, TOKENIZER.replace(r#", "stop": 7"#, "")).unwrap();
    let message = open(dir.path()).err().unwrap();
    assert!(message.contains("eos_token_id 7 is outside the 4 tokens"), "{message}");
}

#[test]
fn the_type_that_weights_are_stored_in_is_told_if_it_is_one() {
    let stored = |tensors: &Tensors| {
        let dir = directory(tensors);
        ModelSource::parse(dir.path().to_str().unwrap()).unwrap().stored_dtype().unwrap()
    };
    assert_eq!(stored(&tensors()), DType::F32);
    let mut half = tensors();
    half.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(DType::BF16).unwrap());
    assert_eq!(stored(&half), DType::BF16);
    let name = half.keys().next().unwrap().clone();
    half.insert(name.clone(), half[&name].to_dtype(DType::F32).unwrap());
    assert_eq!(stored(&half), DType::F32, "some would be rounded");
    assert_eq!(
        ModelSource::parse("fresh:miniature-weak").unwrap().stored_dtype().unwrap(),
        DType::F32
    );
}

#[test]
fn a_gemma_that_sees_writes_what_smaller_ones_can_read() {
    let words = TOKENIZER.replace(r#""stop": 7"#, r#""four": 4, "five": 5, "six": 6, "stop": 7"#);
    let added = r#""added_tokens": [{"id": 8, "content": "<image_soft_token>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}]"#;
    let read = |json: &str| Tokenizer::from_json(json, "t").unwrap();
    let (smaller, seeing) = (read(&words), read(&words.replace(r#""added_tokens": []"#, added)));
    let amid = read(&words.replace("five", "<image_soft_token>"));
    let ids = |kind, tokenizer: &Tokenizer| {
        let mut config = tiny::config(kind);
        config.fit(tokenizer, "m").unwrap();
        config.ids
    };
    assert_eq!((seeing.vocab_size(), smaller.vocab_size()), (9, 8));
    assert_eq!(ids(tiny::GEMMA3, &smaller), 8);
    assert_eq!(ids(tiny::GEMMA3, &seeing), 8);
    assert_eq!(ids(tiny::QWEN2, &seeing), 9);
    assert_eq!(ids(tiny::GEMMA3, &amid), 8, "only the last is left out");
}

#[test]
fn other_files_of_a_directory_are_kept() {
    let dir = directory(&tensors());
    let generation = r#"{"eos_token_id": [3, 7, 1]}"#;
    fs::write(dir.path().join("generation_config.json"), generation).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    fs::write(dir.path().join("training_args.bin"), "of no use").unwrap();
    let files = open(dir.path()).unwrap();
    assert_eq!(files.config.stops, [3, 7, 1]);
    let names: Vec<&str> = files.extras.keys().map(String::as_str).collect();
    assert_eq!(names, ["chat_template.jinja", "generation_config.json"]);
    let copy = tempfile::tempdir().unwrap();
    write_directory(copy.path(), &files.texts().unwrap(), &to_safetensors(&files.tensors).unwrap())
        .unwrap();
    let again = open(copy.path()).unwrap();
    assert_eq!((again.config, again.extras), (files.config, files.extras));
}

#[test]
fn shards_load_like_one_file() {
    let all = tensors();
    let dir = directory(&all);
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [Tensors::new(), Tensors::new()];
    for (i, (name, tensor)) in all.iter().enumerate() {
        shards[i % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), format!("shard-{}.safetensors", i % 2).into());
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = dir.path().join(format!("shard-{i}.safetensors"));
        fs::write(path, to_safetensors(shard).unwrap()).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map });
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let found = open(dir.path()).unwrap();
    assert_eq!(to_safetensors(&found.tensors).unwrap(), to_safetensors(&all).unwrap());
    fs::remove_file(dir.path().join("shard-1.safetensors")).unwrap();
    assert!(open(dir.path()).err().unwrap().contains("shard-1.safetensors does not exist"));
}

#[test]
fn damaged_weights_are_refused_by_tensor_and_file() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let change = |f: &dyn Fn(&mut Tensors)| {
        let mut changed = tensors();
        f(&mut changed);
        let message = refusal(&changed);
        assert!(message.contains(name) && message.contains("model.safetensors"), "{message}");
        message
    };
    let put = |tensors: &mut Tensors, tensor: Tensor| drop(tensors.insert(name.to_owned(), tensor));
    assert!(change(&|t| drop(t.remove(name))).contains("lacks tensor"));
    let message = change(&|t| put(t, t[name].t().unwrap().contiguous().unwrap()));
    assert!(message.contains("[24, 20]") && message.contains("[20, 24]"), "{message}");
    for (bad, dtype) in
        [(f32::NAN, DType::F32), (f32::INFINITY, DType::BF16), (f32::NAN, DType::F16)]
    {
        let message = change(&|t| {
            let mut values = vec![0.5f32; 20 * 24];
            values[77] = bad;
            let tensor = Tensor::from_vec(values, (20, 24), &Device::Cpu).unwrap();
            put(t, tensor.to_dtype(dtype).unwrap());
        });
        assert!(message.contains("NaN or infinity at element 77"), "{message}");
    }
    let dir = directory(&tensors());
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let message = open(dir.path()).err().unwrap();
    assert!(message.contains("not a valid safetensors file"), "{message}");
}

#[test]
fn missing_and_inconsistent_files_are_named() {
    let gone = open(Path::new("/nowhere/model")).err().unwrap();
    assert!(gone.contains("/nowhere/model") && gone.contains("Hugging Face"), "{gone}");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let dir = directory(&tensors());
        fs::remove_file(dir.path().join(file)).unwrap();
        let message = open(dir.path()).err().unwrap();
        assert!(message.contains(&format!("{file} does not exist")), "{message}");
    }
    let dir = directory(&tensors());
    let big = TOKENIZER.replace("\";\": 2", "\";\": 23");
    fs::write(dir.path().join("tokenizer.json"), big).unwrap();
    let message = open(dir.path()).err().unwrap();
    assert!(message.contains("ids up to 23") && message.contains("23 tokens"), "{message}");
    let error = ModelSource::parse("builtin:other").unwrap_err().to_string();
    assert!(error.contains("builtin:other") && error.contains("fresh:miniature-weak"), "{error}");
}

#[test]
fn types_are_converted_and_announced() {
    let half = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
    let rounded: Tensors = tensors().iter().map(|(n, t)| (n.clone(), half(t))).collect();
    let bytes = to_safetensors(&rounded).unwrap();
    let manifest = manifest(PolicyVersion::new(1, 2), &bytes).unwrap();
    assert_eq!((manifest.bytes, manifest.hash), (bytes.len() as u64, Hash::of(&bytes)));
    assert_eq!(manifest.tensors.len(), rounded.len());
    let first = &manifest.tensors[0];
    assert_eq!((first.name.as_str(), first.dtype), ("lm_head.weight", Dtype::Bf16));
    assert_eq!(first.shape, [23, 24]);
    let config = tiny::config(tiny::QWEN2);
    let wide = load(&config, &bytes, "b", &Placement::cpu(DType::F64)).unwrap();
    let name = "model.norm.weight";
    let exact = half(&tensors()[name]).to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(wide[name].to_vec1::<f64>().unwrap(), exact);
    let all = from_safetensors(&bytes, "b", &Placement::cpu(DType::BF16)).unwrap();
    assert_eq!(to_safetensors(&all).unwrap(), bytes);
    // Matrices, and not vectors, may be of another type.
    for dtype in [DType::BF16, DType::F16] {
        let placement = Placement { matrices: Some(dtype), ..Placement::cpu(DType::F32) };
        for (name, tensor) in load(&config, &bytes, "b", &placement).unwrap() {
            let expected = if tensor.dims().len() == 2 { dtype } else { DType::F32 };
            assert_eq!(tensor.dtype(), expected, "{name}");
        }
    }
    let ids = Tensors::from([("x".to_owned(), Tensor::new(&[1i64], &Device::Cpu).unwrap())]);
    assert!(to_safetensors(&ids).unwrap_err().to_string().contains("I64"));
}

#[test]
fn weights_of_whole_numbers_are_refused_by_name() {
    let mut bytes = to_safetensors(&tensors()).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\"F32\"").unwrap();
    bytes[at + 1..at + 4].copy_from_slice(b"I32");
    let loaded = load(&tiny::config(tiny::QWEN2), &bytes, "b", &Placement::cpu(DType::F32));
    let message = loaded.unwrap_err().to_string();
    assert!(message.contains("lm_head.weight") && message.contains("i32"), "{message}");
}

#[test]
fn the_miniature_loads_fresh_and_by_seed() {
    for name in ["fresh:miniature-strong", "fresh:miniature-weak"] {
        let source = ModelSource::parse(name).unwrap();
        assert_eq!(source.to_string(), name);
        let placement = Placement::cpu(DType::F32);
        let bytes = |seed| to_safetensors(&source.load(seed, &placement).unwrap().tensors).unwrap();
        assert!(bytes(1) == bytes(1) && bytes(1) != bytes(2));
    }
    let strong = ModelSource::parse("fresh:miniature-strong").unwrap().outline().unwrap();
    let weak = ModelSource::parse("fresh:miniature-weak").unwrap().outline().unwrap();
    assert_eq!(strong.tokenizer.difference(&weak.tokenizer), None);
    assert_eq!(strong.config.vocab_size, 142);
}
