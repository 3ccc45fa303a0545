//! A committed step as numbers by name (a line of `metrics.jsonl`) and as metrics. Nothing is
//! measured here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::metrics;
use crate::rewards::Tally;
use crate::step::StepReport;

/// Wall time of a step's phases outside the trainer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    /// Until the batch was there.
    pub(crate) wait: Duration,
    pub(crate) checkpoint: Duration,
    pub(crate) publish: Duration,
}

/// What the rollouts of a step say, besides its loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct RolloutFigures {
    pub tally: Tally,
    /// As earned, before any shuffle.
    pub reward_mean: f64,
}

/// Finite numbers only.
pub(crate) fn values(
    report: &StepReport,
    rollouts: Option<&RolloutFigures>,
    phases: &Phases,
) -> BTreeMap<String, f64> {
    let mut values = vec![
        ("loss", report.loss),
        ("grad_norm", report.grad_norm),
        ("learning_rate", report.learning_rate),
        ("tokens", report.tokens as f64),
        ("seconds_wait", phases.wait.as_secs_f64()),
        ("seconds_forward", report.forward.as_secs_f64()),
        ("seconds_backward", report.backward.as_secs_f64()),
        ("seconds_update", report.update.as_secs_f64()),
        ("seconds_checkpoint", phases.checkpoint.as_secs_f64()),
        ("seconds_publish", phases.publish.as_secs_f64()),
    ];
    if let Some(figures) = rollouts {
        values.extend(of_rollouts(figures));
        values.extend(handoff_success(&figures.tally));
        values.extend(of_policy(report));
    }
    let finite = values.into_iter().filter(|(_, value)| value.is_finite());
    finite.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Brings the same to `/metrics`.
pub(crate) fn record(report: &StepReport, rollouts: Option<&RolloutFigures>, phases: &Phases) {
    let seconds = [
        ("wait", phases.wait),
        ("forward", report.forward),
        ("backward", report.backward),
        ("update", report.update),
        ("checkpoint", phases.checkpoint),
        ("publish", phases.publish),
    ];
    for (phase, duration) in seconds {
        metrics::STEP_SECONDS.record(duration.as_secs_f64(), &[("phase", phase)]);
    }
    metrics::LOSS.set(report.loss, &[]);
    metrics::GRADIENT_NORM.set(report.grad_norm, &[]);
    metrics::LEARNING_RATE.set(report.learning_rate, &[]);
    metrics::LOSS_TOKENS.increment(report.tokens, &[]);
    let Some(RolloutFigures { tally, reward_mean }) = rollouts else { return };
    metrics::REWARD.set(*reward_mean, &[]);
    metrics::JARGON.set(share(tally.jargon, tally.jargon_of), &[]);
    metrics::KL.set(report.stats.kl_to_start(), &[]);
    let total = report.stats.total();
    metrics::MISMATCH_KL.set(total.mismatch_kl(), &[]);
    metrics::SURPRISAL.set(report.stats.mean_surprisal(), &[]);
    metrics::LOG_RATIO.set(total.largest, &[]);
    metrics::EFFECTIVE_SAMPLE.set(total.effective_share(), &[]);
    metrics::CLIPPED.set(total.clipped_share(), &[]);
    metrics::CAPPED.set(total.truncated_share(), &[]);
    metrics::TOKENS.increment(tally.strong_tokens as u64, &[("author", "strong")]);
    metrics::TOKENS.increment(tally.weak_tokens as u64, &[("author", "weak")]);
    metrics::CONSUMED.increment(tally.groups_trained as u64, &[("outcome", "trained")]);
    let zero_variance = tally.groups_zero_variance as u64;
    metrics::CONSUMED.increment(zero_variance, &[("outcome", "zero_variance")]);
}

fn of_rollouts(figures: &RolloutFigures) -> Vec<(&'static str, f64)> {
    let RolloutFigures { tally, reward_mean } = figures;
    let tokens = tally.strong_tokens + tally.weak_tokens;
    vec![
        ("reward_mean", *reward_mean),
        ("jargon_rate", share(tally.jargon, tally.jargon_of)),
        ("weak_token_share", share(tally.weak_tokens, tokens)),
        ("live_groups", tally.groups_trained),
        ("staleness_mean", share(tally.staleness, tally.strong_tokens)),
        ("truncated_share", share(tally.truncated, tally.rollouts)),
    ]
}

/// No number where nothing was handed off.
fn handoff_success(tally: &Tally) -> Option<(&'static str, f64)> {
    let measured = tally.handed_off > 0.0;
    measured.then(|| ("handoff_success_rate", share(tally.handed_off_right, tally.handed_off)))
}

/// Raw and unclamped, over the tokens in the loss; by staleness where there are such tokens.
fn of_policy(report: &StepReport) -> Vec<(&'static str, f64)> {
    let (stats, total) = (&report.stats, report.stats.total());
    let mut values = vec![
        ("kl", stats.kl_to_start()),
        ("surprisal", stats.mean_surprisal()),
        ("mismatch_kl", total.mismatch_kl()),
        ("log_ratio_abs_max", total.largest),
        ("effective_sample_share", total.effective_share()),
        ("clipped_share", total.clipped_share()),
        ("ratio_capped_share", total.truncated_share()),
    ];
    let names = [
        ["mismatch_kl_lag_0", "log_ratio_abs_max_lag_0", "effective_sample_share_lag_0"],
        ["mismatch_kl_lag_1", "log_ratio_abs_max_lag_1", "effective_sample_share_lag_1"],
        ["mismatch_kl_lag_2", "log_ratio_abs_max_lag_2", "effective_sample_share_lag_2"],
    ];
    for (names, lag) in names.into_iter().zip(&stats.by_lag) {
        if lag.tokens > 0.0 {
            let found = [lag.mismatch_kl(), lag.largest, lag.effective_share()];
            values.extend(names.into_iter().zip(found));
        }
    }
    values
}

fn share(count: f64, of: f64) -> f64 {
    if of > 0.0 { count / of } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_they_name_and_nothing_is_infinite() {
        let tally = Tally {
            rollouts: 4.0,
            truncated: 1.0,
            strong_tokens: 30.0,
            weak_tokens: 10.0,
            staleness: 15.0,
            groups_trained: 2.0,
            handed_off: 3.0,
            handed_off_right: 1.5,
            ..Tally::default()
        };
        let figures = RolloutFigures { tally, reward_mean: 0.5 };
        let report = StepReport { loss: f64::NAN, grad_norm: 2.0, ..StepReport::default() };
        let values = values(&report, Some(&figures), &Phases::default());
        let expected = [
            ("weak_token_share", 0.25),
            ("truncated_share", 0.25),
            ("staleness_mean", 0.5),
            ("jargon_rate", 0.0),
            ("live_groups", 2.0),
            ("reward_mean", 0.5),
            ("handoff_success_rate", 0.5),
            ("grad_norm", 2.0),
        ];
        for (name, value) in expected {
            assert_eq!(values[name], value, "{name}");
        }
        assert_eq!(handoff_success(&Tally::default()), None, "nothing was handed off");
        assert!(!values.contains_key("loss") && !values.contains_key("mismatch_kl_lag_1"));
    }
}
