//! Rules that a schema cannot say. Each fault names its key and the way out.

use tandem::Schedule;

use crate::schema::Settings;
use crate::sections::{DataSource, Objective};

/// All broken rules.
pub(crate) fn faults(settings: &Settings) -> Vec<String> {
    let mut faults = Vec::new();
    at_least_one(settings, &mut faults);
    ranges(settings, &mut faults);
    if let Err(fault) = settings.train_schedule() {
        faults.push(fault);
    }
    for text in &settings.eval.schedules {
        if let Err(error) = text.parse::<Schedule>() {
            faults.push(format!("eval.schedules: {error}"));
        }
    }
    models_and_data(settings, &mut faults);
    capacity(settings, &mut faults);
    faults
}

fn at_least_one(s: &Settings, faults: &mut Vec<String>) {
    let counts = [
        ("train.problems_per_step", s.train.problems_per_step),
        ("train.samples_per_problem", s.train.samples_per_problem),
        ("train.micro_batch_tokens", s.train.micro_batch_tokens),
        ("handoff.max_gap", s.handoff.max_gap),
        ("handoff.chunk_tokens", s.handoff.chunk_tokens),
        ("sampling.max_tokens", s.sampling.max_tokens),
        ("data.shard_problems", s.data.shard_problems),
        ("actor.slots", s.actor.slots),
        ("actor.slot_tokens", s.actor.slot_tokens),
        ("actor.span_deadline_ms", s.actor.span_deadline_ms),
        ("actor.lease_wait_ms", s.actor.lease_wait_ms),
        ("actor.weak_outbox_messages", s.actor.weak_outbox_messages),
        ("actor.uplink_groups", s.actor.uplink_groups),
        ("learner.inbox_groups", s.learner.inbox_groups),
        ("learner.generation", s.learner.generation),
        ("weak_server.sessions", s.weak_server.sessions),
        ("weak_server.session_tokens", s.weak_server.session_tokens),
        ("weak_server.batch_rows", s.weak_server.batch_rows),
        ("weak_server.queue_requests", s.weak_server.queue_requests),
        ("weak_server.reply_messages", s.weak_server.reply_messages),
        ("checkpoint.keep", s.checkpoint.keep),
        ("coordinator.lease_deadline_ms", s.coordinator.lease_deadline_ms),
        ("coordinator.group_deals_max", s.coordinator.group_deals_max),
        ("coordinator.weights_kept", s.coordinator.weights_kept),
        ("coordinator.keepalive_ms", s.coordinator.keepalive_ms),
        ("admin.progress_limit_ms", s.admin.progress_limit_ms),
    ];
    for (key, value) in counts {
        if value == 0 {
            faults.push(format!("{key} is 0 but must be at least 1"));
        }
    }
}

fn ranges(s: &Settings, faults: &mut Vec<String>) {
    let unit = 0.0..=1.0;
    let probabilities = [
        ("handoff.stay", s.handoff.stay),
        ("data.jargon_share", s.data.jargon_share),
        ("train.learning_rate_floor", s.train.learning_rate_floor),
        ("train.clip_low", s.train.clip_low),
        ("train.beta1", s.train.beta1),
        ("train.beta2", s.train.beta2),
        ("sampling.top_p", f64::from(s.sampling.top_p)),
    ];
    for (key, value) in probabilities {
        if !unit.contains(&value) {
            faults.push(format!("{key} is {value} but must lie between 0 and 1"));
        }
    }
    let not_negative = [
        ("train.kl", s.train.kl),
        ("train.learning_rate", s.train.learning_rate),
        ("train.weight_decay", s.train.weight_decay),
        ("train.clip_high", s.train.clip_high),
        ("train.grad_norm_max", s.train.grad_norm_max),
        ("sampling.temperature", f64::from(s.sampling.temperature)),
        ("shutdown.grace_seconds", s.shutdown.grace_seconds),
    ];
    for (key, value) in not_negative {
        if !(value.is_finite() && value >= 0.0) {
            faults.push(format!("{key} is {value} but must be a number at least 0"));
        }
    }
    if s.train.ratio_cap < 1.0 {
        faults.push(format!("train.ratio_cap is {} but must be at least 1", s.train.ratio_cap));
    }
}

fn models_and_data(s: &Settings, faults: &mut Vec<String>) {
    if s.strong.model.is_empty() {
        faults.push("strong.model is empty: give a model directory or builtin:NAME".to_owned());
    }
    for (key, model) in [("strong", &s.strong), ("weak", &s.weak)] {
        if !model.prompt.template.contains("{question}") {
            faults.push(format!("{key}.prompt.template lacks {{question}}"));
        }
    }
    if s.data.source == DataSource::Gsm8k && s.data.path.is_empty() {
        faults.push(
            "data.path is empty: give the directory that holds train.jsonl and test.jsonl"
                .to_owned(),
        );
    }
    let reinforcement = s.train.objective != Objective::Sft;
    if reinforcement && s.sampling.top_p < 1.0 {
        faults.push(format!(
            "sampling.top_p is {} but training needs 1: a cut distribution biases the ratio",
            s.sampling.top_p
        ));
    }
    if reinforcement && s.sampling.temperature == 0.0 {
        faults.push("sampling.temperature is 0 but training must sample".to_owned());
    }
}

fn capacity(s: &Settings, faults: &mut Vec<String>) {
    let most = s.sampling.max_tokens;
    let held = [
        ("actor.slot_tokens", s.actor.slot_tokens),
        ("weak_server.session_tokens", s.weak_server.session_tokens),
    ];
    for (key, tokens) in held {
        if tokens <= most {
            faults.push(format!(
                "{key} is {tokens} but sampling.max_tokens is {most}: leave room for the prompt"
            ));
        }
    }
    if s.actor.slots < s.train.samples_per_problem {
        faults.push(format!(
            "actor.slots is {} but one group has {} samples: a group must fit",
            s.actor.slots, s.train.samples_per_problem
        ));
    }
    if s.shutdown.grace_seconds > 3600.0 {
        faults.push("shutdown.grace_seconds is over an hour".to_owned());
    }
}
