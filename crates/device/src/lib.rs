//! Which device computes, and this project's own kernels for CUDA: their sources, how each is
//! called, and the one place where they are launched. What is computed out of them is decided by
//! `model` and `grpo`. Without the feature `cuda` the calls are still there, to be run by the tests
//! on the CPU; launching is not.

mod calls;
mod choice;
#[cfg(feature = "cuda")]
mod launch;
mod sources;

pub use calls::{
    AccumulateRows, AdamW, Arg, Attend, AttendBackwardKeys, AttendBackwardQueries, AttentionShape,
    Call, CopyRow, DRAW_BLOCK, DrawTokens, Elements, Gated, Numbers, Piece, RmsNorm, RowSpans,
    ScoreSlopes, StoreKeys, accumulate, scale, sum_of_squares,
};
pub use choice::{Choice, Wish, open};
#[cfg(feature = "cuda")]
pub use launch::{Pointer, empty, launch, matmul_f32, of_tensor, pointer, upload};
pub use sources::KERNELS;
