//! The decoder's numerics against independent computations, and its files against damage. Sampler,
//! tokenizer and configuration are tested beside their code.
#![allow(clippy::unwrap_used, reason = "all of this is test code, its helpers too")]

mod agreement;
mod chunks;
mod engine;
mod files;
mod gguf;
mod gguf_files;
mod gguf_tokens;
mod gradients;
mod lora;
mod oracle;
mod parity;
mod recompute;
mod tiny;
mod trained;
