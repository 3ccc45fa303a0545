//! A Hugging Face model directory: `config.json`, `tokenizer.json` and safetensors, in one file or
//! in shards. Whether writing it is atomic is the caller's concern.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use candle_core::DType;
use serde_json::Value;
use types::is_file_name;

use crate::{ModelConfig, ModelError, Placement, TensorFile, Tensors, Tokenizer};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Before the names of a language model that is a part of one that sees.
const INNER: &str = "language_model.";

/// What belongs to a model but is of no account to its numbers: kept, so that a directory that is
/// written serves as well as the one it comes from.
const EXTRAS: [&str; 6] = [
    GENERATION,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Files by name, all of a directory but its weights or a part of them.
pub type Texts = BTreeMap<String, String>;

/// Writes a directory that loads again; it is created if it does not exist.
///
/// # Errors
/// A file that cannot be written.
pub fn write_directory(dir: &Path, texts: &Texts, safetensors: &[u8]) -> Result<(), ModelError> {
    let failed = |path: &Path, source| ModelError::Write { path: path.to_owned(), cause: source };
    fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    let texts = texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
    for (name, bytes) in texts.chain([(WEIGHTS, safetensors)]) {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

pub(crate) fn read_config(dir: &Path) -> Result<ModelConfig, ModelError> {
    if !dir.is_dir() {
        let hint = "give a Hugging Face model directory with config.json, tokenizer.json and \
                    model.safetensors";
        return Err(ModelError::MissingFile { path: dir.to_owned(), hint });
    }
    let path = dir.join(CONFIG);
    let generation = dir.join(GENERATION);
    let generation = generation.exists().then(|| read_text(&generation)).transpose()?;
    ModelConfig::parse(&read_text(&path)?, generation.as_deref(), &path.display().to_string())
}

pub(crate) fn read_tokenizer(dir: &Path) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_file(&dir.join(TOKENIZER))
}

/// Those that are there.
pub(crate) fn read_extras(dir: &Path) -> Result<Texts, ModelError> {
    let present = EXTRAS.into_iter().filter(|name| dir.join(name).exists());
    present.map(|name| Ok((name.to_owned(), read_text(&dir.join(name))?))).collect()
}

/// The whole of a directory's texts.
///
/// # Errors
/// A tokenizer that cannot be written.
pub(crate) fn texts(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    extras: &Texts,
) -> Result<Texts, ModelError> {
    let own = [(CONFIG, config.to_json()), (TOKENIZER, tokenizer.json()?.into_owned())];
    let own = own.map(|(name, text)| (name.to_owned(), text));
    Ok(extras.clone().into_iter().chain(own).collect())
}

/// The type that all of a model's tensors have in its files; f32 where they differ.
pub(crate) fn stored_dtype(dir: &Path, config: &ModelConfig) -> Result<DType, ModelError> {
    let mut found = BTreeSet::new();
    for (file, wanted) in files_of(dir, config)? {
        let opened = TensorFile::open(&dir.join(file))?;
        let kinds = wanted.iter().filter_map(|(name, _)| opened.kind(held(&opened, name).as_ref()));
        found.extend(kinds.map(|(dtype, _)| dtype));
    }
    Ok(match found.into_iter().collect::<Vec<_>>().as_slice() {
        [one] if one == "BF16" => DType::BF16,
        [one] if one == "F16" => DType::F16,
        _ => DType::F32,
    })
}

/// Under which name a file holds a tensor of the language model.
fn held<'a>(opened: &TensorFile, name: &'a str) -> Cow<'a, str> {
    let inner = format!("{INNER}{name}");
    if opened.kind(&inner).is_some() { inner.into() } else { name.into() }
}

type NamesAndShapes = Vec<(String, Vec<usize>)>;

/// Which file of a directory holds which tensors.
fn files_of(
    dir: &Path,
    config: &ModelConfig,
) -> Result<BTreeMap<String, NamesAndShapes>, ModelError> {
    let mut by_file: BTreeMap<String, NamesAndShapes> = BTreeMap::new();
    let index = dir.join(INDEX);
    if dir.join(WEIGHTS).exists() || !index.exists() {
        by_file.insert(WEIGHTS.to_owned(), config.tensors());
    } else {
        let origin = index.display().to_string();
        let map: Value = serde_json::from_str(&read_text(&index)?)
            .map_err(|e| ModelError::Corrupt { file: origin.clone(), reason: e.to_string() })?;
        for (name, shape) in config.tensors() {
            let of = |name: &str| map["weight_map"][name].as_str();
            let Some(file) = of(&name).or_else(|| of(&format!("{INNER}{name}"))) else {
                return Err(ModelError::MissingTensor { file: origin, tensor: name });
            };
            if !is_file_name(file) {
                let reason = format!("it names {file:?}, which is no file beside it");
                return Err(ModelError::Corrupt { file: origin, reason });
            }
            by_file.entry(file.to_owned()).or_default().push((name, shape));
        }
    }
    Ok(by_file)
}

pub(crate) fn read_tensors(
    dir: &Path,
    config: &ModelConfig,
    placement: &Placement,
) -> Result<Tensors, ModelError> {
    let mut tensors = Tensors::new();
    for (file, wanted) in files_of(dir, config)? {
        let opened = TensorFile::open(&dir.join(file))?;
        for (name, shape) in wanted {
            let tensor = opened.read_shaped(&held(&opened, &name), &shape, placement)?;
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

pub(crate) fn read_text(path: &Path) -> Result<String, ModelError> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|e| ModelError::Read {
        path: path.to_owned(),
        cause: std::io::Error::new(ErrorKind::InvalidData, e),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    fs::read(path).map_err(|source| unreadable(path, source))
}

pub(crate) fn unreadable(path: &Path, source: io::Error) -> ModelError {
    match source.kind() {
        ErrorKind::NotFound => {
            let hint = "a model directory has config.json, tokenizer.json and model.safetensors; \
                        fetch the model's missing file or name another directory";
            ModelError::MissingFile { path: path.to_owned(), hint }
        }
        _ => ModelError::Read { path: path.to_owned(), cause: source },
    }
}
