//! Decoding without gradients: a preallocated key-value cache in which every row has its own length
//! and takes any number of new tokens in one step. Sampling is not done here.

mod cache;
mod engine;
mod fused;
mod output;

#[cfg(feature = "cuda")]
pub(crate) use cache::{Chunk, Reader};
pub use engine::{RaggedEngine, RowInput, Rows, Want, Wanted};
pub use output::StepOutput;
