//! The learner's metrics and what it waits for before it is ready.

use member::ProgramMetrics;
use telemetry::{Counter, Gauge, Histogram, Metric};

pub static STEP_SECONDS: Histogram =
    Histogram::new("tandem_learner_step_seconds", "Wall time of a step by phase.").with_labels(&[
        ("phase", &["wait", "forward", "backward", "update", "checkpoint", "publish", "commit"]),
    ]);
pub static STEPS: Counter = Counter::new("tandem_learner_steps_total", "Steps committed.");
pub static GROUPS: Counter =
    Counter::new("tandem_learner_groups_total", "Groups received, and given back.")
        .with_labels(&[("receipt", &["accepted", "duplicate", "stale", "refused", "replaced"])]);
pub static CONSUMED: Counter =
    Counter::new("tandem_learner_groups_consumed_total", "Groups of committed steps.")
        .with_labels(&[("outcome", &["trained", "zero_variance"])]);
pub static STALENESS: Histogram = Histogram::new(
    "tandem_learner_staleness_versions",
    "Steps between a consumed group's oldest weights and its own step.",
);
pub static POLICY_STEP: Gauge =
    Gauge::new("tandem_learner_policy_step", "Step of the published policy version.");
pub static POLICY_GENERATION: Gauge =
    Gauge::new("tandem_learner_policy_generation", "Generation of the published policy version.");
pub static PUBLISHED: Counter =
    Counter::new("tandem_learner_weights_published_total", "Policy versions published.")
        .with_labels(&[("way", &["file", "stream"])]);
pub static STORED: Counter = Counter::new(
    "tandem_learner_weights_stored_total",
    "Policy versions put into the run's store for actors.",
);
pub static INBOX: Gauge =
    Gauge::new("tandem_learner_inbox_groups", "Groups received that wait for their step.");
pub static TOKENS: Counter =
    Counter::new("tandem_learner_tokens_total", "Generated tokens of consumed groups by author.")
        .with_labels(&[("author", &["strong", "weak"])]);
pub static LOSS_TOKENS: Counter =
    Counter::new("tandem_learner_loss_tokens_total", "Tokens that were in the loss.");
pub static CHECKPOINTS: Counter =
    Counter::new("tandem_learner_checkpoints_total", "Checkpoints written.");
pub static CHECKPOINT_SECONDS: Histogram = Histogram::new(
    "tandem_learner_checkpoint_write_seconds",
    "Wall time of writing a checkpoint beside the steps; what a step waits is its phase.",
);
pub static UPLOADS: Counter =
    Counter::new("tandem_learner_checkpoint_uploads_total", "Checkpoints sent to the run's store.")
        .with_labels(&[("outcome", &["stored", "failed"])]);
pub static UPLOAD_SECONDS: Histogram = Histogram::new(
    "tandem_learner_checkpoint_upload_seconds",
    "Wall time of storing a checkpoint beside the steps.",
);
pub static DISK_FREE: Gauge =
    Gauge::new("tandem_learner_disk_free_bytes", "Free where the run directory lies.");
pub static LOSS: Gauge = Gauge::new("tandem_learner_loss", "Loss of the last step, per token.");
pub static GRADIENT_NORM: Gauge =
    Gauge::new("tandem_learner_gradient_norm", "Of the last step, before clipping.");
pub static LEARNING_RATE: Gauge = Gauge::new("tandem_learner_learning_rate", "Of the last step.");
pub static REWARD: Gauge =
    Gauge::new("tandem_learner_reward_mean", "Mean reward of the last step's rollouts.");
pub static JARGON: Gauge =
    Gauge::new("tandem_learner_jargon_ratio", "Jargon among the strong words of the last step.");
pub static KL: Gauge =
    Gauge::new("tandem_learner_kl_nats", "Divergence from the run's start, per strong token.");
pub static MISMATCH_KL: Gauge = Gauge::new(
    "tandem_learner_mismatch_kl_nats",
    "Divergence of the training forward from the sampler, per strong token.",
);
pub static SURPRISAL: Gauge = Gauge::new(
    "tandem_learner_surprisal_nats",
    "Of the last step's strong tokens; on policy it estimates their entropy.",
);
pub static LOG_RATIO: Gauge = Gauge::new(
    "tandem_learner_log_ratio_abs_max",
    "Largest of the last step, training over sampler probability.",
);
pub static EFFECTIVE_SAMPLE: Gauge = Gauge::new(
    "tandem_learner_effective_sample_ratio",
    "Effective sample size of the last step over its tokens; 1 on policy.",
);
pub static CLIPPED: Gauge = Gauge::new(
    "tandem_learner_clipped_tokens_ratio",
    "Tokens of the last step without policy gradient, since their ratio was clipped.",
);
pub static CAPPED: Gauge = Gauge::new(
    "tandem_learner_capped_tokens_ratio",
    "Tokens of the last step whose ratio was above its cap.",
);

/// Everything declared above.
pub static ALL: [&dyn Metric; 29] = [
    &STEP_SECONDS,
    &STEPS,
    &GROUPS,
    &CONSUMED,
    &STALENESS,
    &POLICY_STEP,
    &POLICY_GENERATION,
    &PUBLISHED,
    &STORED,
    &INBOX,
    &TOKENS,
    &LOSS_TOKENS,
    &CHECKPOINTS,
    &CHECKPOINT_SECONDS,
    &UPLOADS,
    &UPLOAD_SECONDS,
    &DISK_FREE,
    &LOSS,
    &GRADIENT_NORM,
    &LEARNING_RATE,
    &REWARD,
    &JARGON,
    &KL,
    &MISMATCH_KL,
    &SURPRISAL,
    &LOG_RATIO,
    &EFFECTIVE_SAMPLE,
    &CLIPPED,
    &CAPPED,
];

/// What `main` hands to the member's frame.
#[must_use]
pub fn program() -> ProgramMetrics {
    ProgramMetrics {
        metrics: &ALL,
        buckets: &[],
        readiness: &["model", "coordinator", "published"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_obey_the_law() {
        for metric in ALL {
            assert_eq!(telemetry::check_name(metric), Ok(()));
        }
    }
}
