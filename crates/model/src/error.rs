//! What can go wrong between a model's files and its logits. Sampling has its own error.

use std::path::PathBuf;

use crate::SampleError;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path} does not exist: {hint}")]
    MissingFile { path: PathBuf, hint: &'static str },
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("cannot write {path}: {cause}")]
    Write { path: PathBuf, cause: std::io::Error },
    #[error("unknown model {name:?}: give a directory or one of {known}")]
    UnknownModel { name: String, known: String },
    #[error(
        "{name} has no weights in this build: train them with `coordinator sft` or use {other}"
    )]
    NoBuiltinWeights { name: String, other: String },
    #[error("{origin}: {reason}")]
    Config { origin: String, reason: String },
    #[error("{origin}: model_type {found:?} is not supported, only {known}")]
    UnknownFamily { origin: String, found: String, known: String },
    #[error("{origin}: {reason}")]
    Tokenizer { origin: String, reason: String },
    #[error("{file} {reason}")]
    Gguf { file: String, reason: String },
    #[error(
        "{file} is not a valid safetensors file ({reason}): fetch it again or restore a checkpoint"
    )]
    Corrupt { file: String, reason: String },
    #[error("{file} lacks tensor {tensor}: it does not fit its config.json")]
    MissingTensor { file: String, tensor: String },
    #[error("{file}: tensor {tensor} has shape {found:?}, its config.json asks for {expected:?}")]
    Shape { file: String, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{file}: tensor {tensor} is {found}, only f32, f16, bf16 and f64 are read")]
    Dtype { file: String, tensor: String, found: String },
    #[error(
        "{file}: tensor {tensor} holds a NaN or infinity at element {index}: restore a checkpoint"
    )]
    NotFinite { file: String, tensor: String, index: usize },
    #[error("{0}")]
    Input(String),
    #[error("row {row} does not exist, the engine has {rows}")]
    UnknownRow { row: usize, rows: usize },
    #[error("row {row} is full: {len} + {new} tokens exceed its capacity of {capacity}")]
    RowFull { row: usize, len: usize, new: usize, capacity: usize },
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
