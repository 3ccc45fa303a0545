//! The learner: checks and assembles rollout groups into steps, trains on them, keeps
//! checkpoints and publishes policy versions. Dealing out problems is the coordinator's, the
//! learning math is `grpo`'s.

pub mod admission;
mod align;
pub mod assembler;
mod census;
pub mod checkpoint;
pub mod collective;
mod examples;
#[cfg(test)]
mod fixtures;
mod generations;
pub mod inbox;
pub mod ingest;
pub mod metrics;
mod process;
mod publish_only;
pub mod publisher;
mod rank_watch;
pub mod refill;
mod report;
pub mod rewards;
mod rollout_log;
mod seat;
pub mod step;
pub mod train_loop;

pub use metrics::program;
pub use process::{load_start, run, stops};
pub use publish_only::publish_only;
