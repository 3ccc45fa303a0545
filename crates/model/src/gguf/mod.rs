//! Models in one GGUF file: configuration, tokenizer and weights as llama.cpp's converter wrote
//! them. What is computed with them is the decoder's.

mod config;
mod extras;
mod file;
mod merges;
mod tensors;
mod tokenizer;

pub(crate) use config::read_config;
pub(crate) use extras::read_extras;
pub(crate) use file::{GgufFile, RawTensor};
pub(crate) use tensors::{read_dense, read_quantized};
pub(crate) use tokenizer::read_tokenizer;
