//! Candle numerics of one decoder family: configuration, weights, tokenizer, the differentiable
//! forward, the ragged batched decode and the sampler. No loss, no optimiser, no I/O but reading
//! and writing model directories.

mod block;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
mod decode;
mod decoder;
mod directory;
mod draw;
mod error;
mod gguf;
mod linear;
mod lora;
mod ops;
mod quantized;
mod recompute;
mod rope;
mod sampler;
mod scoring;
mod source;
mod tensor_file;
mod text_table;
mod tokenizer;
mod train;
mod weights;

pub use candle_core::{DType, Device};
pub use config::{Activation, Family, Local, ModelConfig, Rope, RopeScaling};
pub use decode::{RaggedEngine, RowInput, Rows, StepOutput, Want, Wanted};
pub use decoder::Decoder;
pub use directory::{Texts, write_directory};
pub use draw::{Draw, Pick, draw_tokens};
pub use error::ModelError;
pub use lora::LoraSettings;
pub use recompute::{GradientSink, Recompute};
pub use sampler::{SampleError, Sampled, SamplerSettings, logprob_of, sample};
pub use scoring::Scoring;
pub use source::{ModelFiles, ModelOutline, ModelSource};
pub use tensor_file::TensorFile;
pub use text_table::TextTable;
pub use tokenizer::Tokenizer;
pub use train::logprobs;
pub use weights::{
    NamedNumbers, Placement, Tensors, from_safetensors, load, manifest, tensor_infos,
    to_safetensors, write_numbers,
};
