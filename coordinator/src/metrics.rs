//! The coordinator's metrics: declared here, set from the state by `hub`.

use proto::ErrorCode;
use telemetry::{Counter, Gauge, Metric};
use types::Purpose;

use crate::departures::{WAYS, way_name};
use crate::eval_plan::EvalResult;
use crate::membership::ROLES;
use crate::state::{GroupCounts, RunState, Stage};

const PURPOSES: &[&str] = &["train", "eval"];
/// Not `role`: that is what the one who scrapes calls the process which is asked.
const PROGRAMS: &[&str] = &["actor", "weak-server", "learner"];
const STAGES: &[&str] = &["before", "during", "after"];

pub static GROUPS: Counter =
    Counter::new("tandem_coordinator_groups_total", "Groups by what happened to them.")
        .with_labels(&[
            ("purpose", PURPOSES),
            (
                "outcome",
                &["leased", "completed", "expired", "failed", "stale", "refused", "replaced"],
            ),
        ]);
pub static CONSUMED: Counter =
    Counter::new("tandem_coordinator_consumed_groups_total", "Groups of committed steps.")
        .with_labels(&[("kind", &["trained", "zero_variance"])]);
pub static TRAINED_TWICE: Counter = Counter::new(
    "tandem_coordinator_groups_trained_twice_total",
    "Groups reported as trained that were consumed before; anything but 0 is a fault.",
);
pub static SHARDS: Counter =
    Counter::new("tandem_coordinator_shards_dealt_total", "Shards of problems that were begun.");
pub static DATA_EPOCH: Gauge = Gauge::new(
    "tandem_coordinator_data_epoch",
    "Epoch that problems are dealt from; 0 is the first.",
);
pub static TOKENS: Counter =
    Counter::new("tandem_coordinator_trained_tokens_total", "Tokens of consumed groups.")
        .with_labels(&[("author", &["strong", "weak"])]);
pub static LEASES_OPEN: Gauge =
    Gauge::new("tandem_coordinator_leases_open", "Groups that are out under a lease.")
        .with_labels(&[("purpose", PURPOSES)]);
pub static MEMBERS: Gauge = Gauge::new("tandem_coordinator_members", "Registered processes.")
    .with_labels(&[("program", PROGRAMS)]);
pub static DEPARTURES: Counter = Counter::new(
    "tandem_coordinator_departures_total",
    "Members that left: told to, failed, failed over a number that is not finite, or without a word.",
)
.with_labels(&[
    ("program", PROGRAMS),
    ("how", &["ordered", "failed", "not_finite", "lost"]),
]);
pub static RESTARTS: Counter = Counter::new(
    "tandem_coordinator_restarts_total",
    "Processes that ended unasked and were started again.",
)
.with_labels(&[("program", PROGRAMS)]);
pub static ROLLED_BACK: Counter = Counter::new(
    "tandem_coordinator_rolled_back_steps_total",
    "Committed steps that were undone because the learner went on from an earlier checkpoint.",
);
pub static STEP: Gauge = Gauge::new("tandem_coordinator_step", "Steps committed.");
pub static STEPS_DUE: Gauge = Gauge::new("tandem_coordinator_steps_due", "Steps of the whole run.");
pub static POLICY_STEP: Gauge =
    Gauge::new("tandem_coordinator_policy_step", "Step of the published policy version.");
pub static POLICY_GENERATION: Gauge = Gauge::new(
    "tandem_coordinator_policy_generation",
    "Learner generation of the published policy version.",
);
pub static WEIGHTS: Gauge =
    Gauge::new("tandem_coordinator_weights_bytes", "Bytes of all kept policy versions.");
pub static DISK_FREE: Gauge =
    Gauge::new("tandem_coordinator_disk_free_bytes", "Free where the run directory lies.");
pub static PUBLICATIONS: Counter =
    Counter::new("tandem_coordinator_weight_publications_total", "Policy versions received.")
        .with_labels(&[("outcome", &["stored", "refused"])]);
pub static RPC_ERRORS: Counter =
    Counter::new("tandem_coordinator_rpc_errors_total", "Calls answered with an error.")
        .with_labels(&[
            (
                "rpc",
                &[
                    "register",
                    "heartbeat",
                    "watch",
                    "lease",
                    "return_group",
                    "report_eval",
                    "lease_examples",
                    "publish_weights",
                    "fetch_weights",
                    "commit_step",
                    "reform",
                    "leave",
                ],
            ),
            (
                "code",
                &[
                    "invalid",
                    "unknown_member",
                    "superseded",
                    "not_found",
                    "overloaded",
                    "deadline",
                    "unavailable",
                    "internal",
                ],
            ),
        ]);
pub static EVAL_PROGRESS: Gauge = Gauge::new(
    "tandem_coordinator_eval_progress_ratio",
    "Share of the evaluation under way that is done; 0 while there is none.",
);
pub static EVAL_SOLO: Gauge = Gauge::new(
    "tandem_coordinator_eval_solo_accuracy_ratio",
    "Held-out accuracy of the strong model alone.",
)
.with_labels(&[("stage", STAGES), ("decoding", &["sampled", "greedy"])]);
pub static EVAL_TANDEM: Gauge = Gauge::new(
    "tandem_coordinator_eval_tandem_accuracy_ratio",
    "Held-out accuracy under a schedule.",
)
.with_labels(&[("stage", STAGES), ("schedule", &[])]);
pub static EVAL_HANDOFF: Gauge = Gauge::new(
    "tandem_coordinator_eval_handoff_success_ratio",
    "Held-out accuracy of rollouts with a handoff, under a schedule.",
)
.with_labels(&[("stage", STAGES), ("schedule", &[])]);
pub static EVAL_JARGON: Gauge = Gauge::new(
    "tandem_coordinator_eval_jargon_ratio",
    "Share of jargon in the strong model's own sampled words.",
)
.with_labels(&[("stage", STAGES)]);
pub static EVAL_WEAK: Gauge = Gauge::new(
    "tandem_coordinator_eval_weak_solo_accuracy_ratio",
    "Held-out accuracy of the weak model alone.",
)
.with_labels(&[("stage", STAGES)]);

pub static TRACK_POINTS: Counter = Counter::new(
    "tandem_coordinator_track_points_total",
    "Numbers for a tracker of experiments; those that found no room or no taker are dropped.",
)
.with_labels(&[("tracker", &["tensorboard", "mlflow"]), ("outcome", &["written", "dropped"])]);

/// Everything declared above.
pub static ALL: &[&dyn Metric] = &[
    &GROUPS,
    &CONSUMED,
    &TRAINED_TWICE,
    &SHARDS,
    &DATA_EPOCH,
    &TOKENS,
    &LEASES_OPEN,
    &MEMBERS,
    &DEPARTURES,
    &RESTARTS,
    &ROLLED_BACK,
    &STEP,
    &STEPS_DUE,
    &POLICY_STEP,
    &POLICY_GENERATION,
    &WEIGHTS,
    &DISK_FREE,
    &PUBLICATIONS,
    &RPC_ERRORS,
    &EVAL_PROGRESS,
    &EVAL_SOLO,
    &EVAL_TANDEM,
    &EVAL_HANDOFF,
    &EVAL_JARGON,
    &EVAL_WEAK,
    &TRACK_POINTS,
];

/// Sets what follows from the state.
pub fn set_from(state: &RunState) {
    for purpose in [Purpose::Train, Purpose::Eval] {
        set_groups(purpose, state.counts(purpose));
        let open = state.leases_open(purpose) as f64;
        LEASES_OPEN.set(open, &[("purpose", purpose.name())]);
    }
    let totals = state.totals();
    CONSUMED.with(&[("kind", "trained")]).absolute(totals.trained);
    CONSUMED.with(&[("kind", "zero_variance")]).absolute(totals.zero_variance);
    TRAINED_TWICE.with(&[]).absolute(totals.trained_twice);
    TOKENS.with(&[("author", "strong")]).absolute(totals.strong_tokens);
    TOKENS.with(&[("author", "weak")]).absolute(totals.weak_tokens);
    if let Some(place) = state.dealing() {
        SHARDS.with(&[]).absolute(place.shards_begun);
        DATA_EPOCH.set(place.epoch as f64, &[]);
    }
    for role in ROLES {
        let program = ("program", role.name());
        MEMBERS.set(state.members().of_role(role).len() as f64, &[program]);
        for how in WAYS {
            let left = state.departures().of(role, how);
            DEPARTURES.with(&[program, ("how", way_name(how))]).absolute(left);
        }
    }
    STEP.set(f64::from(state.committed()), &[]);
    if let Some(training) = &state.spec().training {
        STEPS_DUE.set(f64::from(training.steps), &[]);
    }
    if let Some(version) = state.published() {
        POLICY_STEP.set(f64::from(version.step), &[]);
        POLICY_GENERATION.set(f64::from(version.generation.0), &[]);
    }
    let done = state.eval_progress().map_or(0.0, |(done, due)| done as f64 / due.max(1) as f64);
    EVAL_PROGRESS.set(done, &[]);
}

/// Shows the result of an evaluation; what was not measured gets no series.
pub fn set_evaluation(stage: Stage, result: &EvalResult) {
    let stage = ("stage", stage.name());
    let set = |gauge: &Gauge, value: Option<f64>, labels: &[telemetry::LabelPair]| {
        if let Some(value) = value {
            gauge.set(value, labels);
        }
    };
    set(&EVAL_SOLO, result.solo_accuracy, &[stage, ("decoding", "sampled")]);
    set(&EVAL_SOLO, result.solo_accuracy_greedy, &[stage, ("decoding", "greedy")]);
    for (schedule, value) in result.tandem_accuracy.iter() {
        set(&EVAL_TANDEM, value, &[stage, ("schedule", schedule)]);
    }
    for (schedule, value) in result.handoff_success_rate.iter() {
        set(&EVAL_HANDOFF, value, &[stage, ("schedule", schedule)]);
    }
    set(&EVAL_JARGON, result.jargon_rate, &[stage]);
    set(&EVAL_WEAK, result.weak_solo_accuracy, &[stage]);
}

/// Counts one call that was answered with an error.
pub fn count_rpc_error(rpc: &'static str, code: ErrorCode) {
    RPC_ERRORS.increment(1, &[("rpc", rpc), ("code", code.name())]);
}

fn set_groups(purpose: Purpose, counts: &GroupCounts) {
    let outcomes = [
        ("leased", counts.leased),
        ("completed", counts.completed),
        ("expired", counts.expired),
        ("failed", counts.failed),
        ("stale", counts.stale),
        ("refused", counts.refused),
        ("replaced", counts.replaced),
    ];
    for (outcome, count) in outcomes {
        GROUPS.with(&[("purpose", purpose.name()), ("outcome", outcome)]).absolute(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_obey_the_law() {
        for metric in ALL {
            assert_eq!(telemetry::check_name(*metric), Ok(()));
        }
    }
}
