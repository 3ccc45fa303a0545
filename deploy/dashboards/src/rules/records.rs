//! What dashboards and alerts share: results of the latest evaluation, whichever that was, and how
//! training's rollouts fare.

use coordinator::metrics as of_run;
use telemetry::{Gauge, Metric};

use super::Record;

pub(crate) const HELD_OUT_HANDOFF: &str = "job_schedule:tandem_held_out_handoff_success:ratio";
pub(crate) const HELD_OUT_TANDEM: &str = "job_schedule:tandem_held_out_tandem_accuracy:ratio";
pub(crate) const HELD_OUT_SOLO: &str = "job:tandem_held_out_solo_accuracy:ratio";
pub(crate) const HELD_OUT_JARGON: &str = "job:tandem_held_out_jargon:ratio";
pub(crate) const HELD_OUT_QUOTIENT: &str =
    "job_schedule:tandem_held_out_handoff_per_solo_success:ratio";
pub(super) const TRAINING_SUCCESS: &str = "job_handoff:tandem_training_success:ratio15m";

pub(super) fn records() -> Vec<Record> {
    let record = |name, expression| Record { name, expression };
    let rollouts = |outcome: &str| {
        let name = actor::metrics::ROLLOUTS.name();
        format!(r#"sum by (job, handoff) (increase({name}{{purpose="train",{outcome}}}[15m]))"#)
    };
    let (right, ended) = (rollouts(r#"outcome="correct""#), rollouts(r#"outcome!="failed""#));
    let sampled = r#",decoding="sampled""#;
    vec![
        record(HELD_OUT_HANDOFF, latest("job, schedule", &of_run::EVAL_HANDOFF, "")),
        record(HELD_OUT_TANDEM, latest("job, schedule", &of_run::EVAL_TANDEM, "")),
        record(HELD_OUT_SOLO, latest("job", &of_run::EVAL_SOLO, sampled)),
        record(HELD_OUT_JARGON, latest("job", &of_run::EVAL_JARGON, "")),
        record(
            HELD_OUT_QUOTIENT,
            format!("{HELD_OUT_HANDOFF}\n/ on (job) group_left ()\n({HELD_OUT_SOLO} > 0)"),
        ),
        record(TRAINING_SUCCESS, format!("{right}\n/\n({ended} > 0)")),
    ]
}

/// Of the evaluation after training, else of the last one during it, else of the one before.
fn latest(by: &str, gauge: &Gauge, matchers: &str) -> String {
    let of_stage =
        |stage: &str| format!(r#"max by ({by}) ({}{{stage="{stage}"{matchers}}})"#, gauge.name());
    ["after", "during", "before"].map(of_stage).join("\nor\n")
}
