//! Learning math: advantages, micro-batches, losses, gradients, the optimiser.
//! Plain tensors and host columns only; models, checkpoints, all-reduce and metrics live elsewhere.

mod advantage;
mod batch;
#[cfg(test)]
mod end_to_end;
mod error;
#[cfg(test)]
mod fixtures;
mod flat;
mod gradients;
mod learning_rate;
mod loss;
mod optimizer;
mod padding;
mod parameters;
mod sft;
mod stats;

pub use advantage::{Estimator, GroupWeights, group_advantages, zero_variance};
pub use batch::{PolicyBatch, TokenColumns, plan_micro_batches, strong_tokens, training_len};
pub use error::Error;
pub use gradients::Gradients;
pub use learning_rate::{Decay, LearningRate};
pub use loss::{LossInputs, LossOutput, LossSettings, RatioLevel, policy_loss};
pub use optimizer::{AdamW, AdamWSettings, OptimizerState, SavedState};
pub use parameters::Parameters;
pub use sft::{Example, SftBatch, SftOutput, sft_loss};
pub use stats::{LAG_CLASSES, LagStats, RawStats};
