//! What an actor measures. When each number changes is decided where the thing happens.

use telemetry::{Counter, Gauge, Histogram, Metric};
use types::{Author, Finish, Purpose, Rollout};

const PURPOSES: &[&str] = &["train", "eval"];
const HANDOFF: &[&str] = &["yes", "no"];

pub static ROLLOUTS: Counter =
    Counter::new("tandem_actor_rollouts_total", "Rollouts ended, by handoff and outcome.")
        .with_labels(&[
            ("purpose", PURPOSES),
            ("handoff", HANDOFF),
            ("outcome", &["correct", "wrong", "truncated", "failed"]),
        ]);
pub static GROUPS: Counter =
    Counter::new("tandem_actor_groups_total", "Groups ended: complete or given up.")
        .with_labels(&[("purpose", PURPOSES), ("outcome", &["complete", "failed"])]);
pub static TOKENS: Counter =
    Counter::new("tandem_actor_tokens_total", "Response tokens of complete groups, by author.")
        .with_labels(&[("author", &["strong", "weak"]), ("handoff", HANDOFF)]);
pub static PROMPT_TOKENS: Counter =
    Counter::new("tandem_actor_prompt_tokens_total", "Prompt tokens of complete groups' rollouts.")
        .with_labels(&[("handoff", HANDOFF)]);
pub static COMPUTED_TOKENS: Counter = Counter::new(
    "tandem_actor_computed_tokens_total",
    "Tokens that the strong model computed, prompts and recomputed caches included.",
);
pub static BATCH_ROWS: Histogram =
    Histogram::new("tandem_actor_batch_rows", "Rows of one strong forward.");
pub static TICK_SECONDS: Histogram =
    Histogram::new("tandem_actor_tick_seconds", "Time of one strong forward with its sampling.");
pub static SPAN_SECONDS: Histogram = Histogram::new(
    "tandem_actor_span_seconds",
    "From the first request of a weak span to its tokens, retries included.",
);
pub static SPAN_RETRIES: Counter =
    Counter::new("tandem_actor_span_retries_total", "Span requests repeated, by fault.")
        .with_labels(&[(
            "fault",
            &["unknown_session", "prefix", "overloaded", "deadline", "silence", "stream"],
        )]);
pub static FORCED_REDRAWS: Counter = Counter::new(
    "tandem_actor_forced_redraws_total",
    "Author redraws forced by handoff.max_gap, in complete groups.",
);
pub static SLOTS: Gauge = Gauge::new("tandem_actor_slots", "Slots by what they wait for.")
    .with_labels(&[("state", &["free", "strong", "weak"])]);
pub static QUEUED: Gauge = Gauge::new("tandem_actor_queued", "Entries waiting in each queue.")
    .with_labels(&[("queue", &["commands", "spans", "learner", "coordinator", "receipts"])]);
pub static QUEUE_PLACES: Gauge =
    Gauge::new("tandem_actor_queue_places", "Entries that each queue takes; more wait before it.")
        .with_labels(&[("queue", &["spans", "learner", "coordinator"])]);
pub static POLICY_GENERATION: Gauge = Gauge::new(
    "tandem_actor_policy_generation",
    "Learner generation of the weights that sample now.",
);
pub static POLICY_STEP: Gauge =
    Gauge::new("tandem_actor_policy_step", "Training step of the weights that sample now.");
pub static WEIGHT_SWAPS: Counter =
    Counter::new("tandem_actor_weight_swaps_total", "Weight versions put in place.");
pub static WEIGHTS_FETCHED: Counter =
    Counter::new("tandem_actor_weights_fetched_total", "Weight versions that arrived whole.")
        .with_labels(&[("way", &["file", "store", "stream"])]);
pub static WEIGHTS_REFUSED: Counter = Counter::new(
    "tandem_actor_weights_refused_total",
    "Weight versions that did not fit or were broken; the old ones stayed.",
);
pub static RECEIPTS: Counter =
    Counter::new("tandem_actor_receipts_total", "The learner's answers to delivered groups.")
        .with_labels(&[("code", &["accepted", "duplicate", "refused", "replaced"])]);
pub static JARGON_WORDS: Counter = Counter::new(
    "tandem_actor_jargon_words_total",
    "Words in jargon among the strong model's styled words, in complete groups.",
);
pub static STYLED_WORDS: Counter = Counter::new(
    "tandem_actor_styled_words_total",
    "Words of the strong model that are written in one style or the other, in complete groups.",
);
pub static WEAK_SURPRISAL: Histogram = Histogram::new(
    "tandem_actor_weak_surprisal_nats",
    "Mean of -log p of the weak model over the strong tokens that it read, of each rollout with such.",
)
.with_labels(&[("purpose", PURPOSES)]);
pub static REWARD: Histogram =
    Histogram::new("tandem_actor_reward", "Rewards of rollouts in complete groups.")
        .with_labels(&[("purpose", PURPOSES)]);

/// All of them, for `describe`.
pub static ALL: &[&dyn Metric] = &[
    &ROLLOUTS,
    &GROUPS,
    &TOKENS,
    &PROMPT_TOKENS,
    &COMPUTED_TOKENS,
    &BATCH_ROWS,
    &TICK_SECONDS,
    &SPAN_SECONDS,
    &SPAN_RETRIES,
    &FORCED_REDRAWS,
    &SLOTS,
    &QUEUED,
    &QUEUE_PLACES,
    &POLICY_GENERATION,
    &POLICY_STEP,
    &WEIGHT_SWAPS,
    &WEIGHTS_FETCHED,
    &WEIGHTS_REFUSED,
    &RECEIPTS,
    &JARGON_WORDS,
    &STYLED_WORDS,
    &WEAK_SURPRISAL,
    &REWARD,
];

/// Beside the common buckets.
pub const BUCKETS: &[(&str, &[f64])] = &[
    ("_reward", &[0.0, 0.25, 0.5, 0.75, 1.0]),
    ("_nats", &[0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0]),
];

/// What must be there before `/readyz` says yes.
pub const READINESS: &[&str] = &["weights", "coordinator"];

/// Counts one rollout of a complete group.
pub(crate) fn count_rollout(purpose: Purpose, rollout: &Rollout) {
    let parts = rollout.parts();
    let outcome = match (parts.finish, parts.verdict.correct) {
        (Finish::Truncated, _) => "truncated",
        (Finish::End, true) => "correct",
        (Finish::End, false) => "wrong",
    };
    let handoff = ("handoff", yes_or_no(rollout.has_handoff()));
    count_outcome(purpose, rollout.has_handoff(), outcome);
    for author in [Author::Strong, Author::Weak] {
        TOKENS.increment(rollout.count(author) as u64, &[("author", author.name()), handoff]);
    }
    PROMPT_TOKENS.increment(parts.prompt_len as u64, &[handoff]);
    FORCED_REDRAWS.increment(u64::from(parts.forced_redraws), &[]);
    JARGON_WORDS.increment(u64::from(parts.verdict.jargon.count), &[]);
    STYLED_WORDS.increment(u64::from(parts.verdict.jargon.of), &[]);
    let purpose = ("purpose", purpose.name());
    if let Some(surprisal) = weak_surprisal(rollout) {
        WEAK_SURPRISAL.record(surprisal, &[purpose]);
    }
    REWARD.record(f64::from(parts.verdict.reward), &[purpose]);
}

/// How unlikely the weak model finds what the strong one wrote, where it has read any of it.
fn weak_surprisal(rollout: &Rollout) -> Option<f64> {
    let parts = rollout.parts();
    let by_strong = parts.authors.iter().zip(&parts.weak_logprobs);
    let by_strong = by_strong.filter(|(author, _)| **author == Author::Strong);
    let read: Vec<f64> = by_strong
        .map(|(_, logprob)| -f64::from(*logprob))
        .filter(|nats| nats.is_finite())
        .collect();
    (!read.is_empty()).then(|| read.iter().sum::<f64>() / read.len() as f64)
}

/// Counts one rollout of a group that was given up.
pub(crate) fn count_failed(purpose: Purpose, handoff: bool) {
    count_outcome(purpose, handoff, "failed");
}

fn count_outcome(purpose: Purpose, handoff: bool, outcome: &'static str) {
    let handoff = ("handoff", yes_or_no(handoff));
    ROLLOUTS.increment(1, &[("purpose", purpose.name()), handoff, ("outcome", outcome)]);
}

fn yes_or_no(handoff: bool) -> &'static str {
    if handoff { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use telemetry::check_name;

    use super::*;

    #[test]
    fn every_name_obeys_the_law() {
        for metric in ALL {
            assert_eq!(check_name(*metric), Ok(()), "{}", metric.name());
        }
    }
}
