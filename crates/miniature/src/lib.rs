//! The built-in problems and the two models that solve them: grammar, solutions in plain and
//! jargon style, tokenizer, shapes, embedded weights. No tensors, no training, no I/O.

mod draws;
mod grammar;
mod init;
pub mod lexicon;
pub mod problems;
mod shape;
mod solution;
mod tokenizer;

pub use grammar::{Op, Step, Task};
pub use init::{TensorSpec, TensorsError, fresh_weights, random_safetensors, uniform_elements};
pub use lexicon::jargon_share;
pub use problems::{Split, draw};
pub use shape::{Role, Shape, config_json, weights};
pub use solution::{Style, solution};
pub use tokenizer::tokenizer_json;
