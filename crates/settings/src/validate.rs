//! Rules that a schema cannot say. Each fault names its key and the way out.

mod connections;
mod numbers;
mod prompts;
mod store;
#[cfg(test)]
mod tests;
mod texts;

use tandem::Schedule;

use crate::schema::Settings;
use crate::sections::{DataSource, EvalSplit, Grader, LORA_TARGETS, Objective};

/// The smallest `limits.message_bytes`: it holds one chunk of weights with room to spare.
pub const MESSAGE_BYTES_MIN: u64 = 2 << 20;

/// All broken rules.
pub(crate) fn faults(settings: &Settings) -> Vec<String> {
    let mut faults = Vec::new();
    numbers::faults(settings, &mut faults);
    texts::faults(settings, &mut faults);
    connections::faults(settings, &mut faults);
    store::faults(settings, &mut faults);
    if let Err(fault) = settings.train_schedule() {
        faults.push(fault);
    }
    faults.extend(settings.gpu_sizes().err());
    for text in &settings.eval.schedules {
        if let Err(error) = text.parse::<Schedule>() {
            faults.push(format!("eval.schedules: {error}"));
        }
    }
    models_and_data(settings, &mut faults);
    prompts::faults(settings, &mut faults);
    evaluation(settings, &mut faults);
    capacity(settings, &mut faults);
    deadlines(settings, &mut faults);
    lora(settings, &mut faults);
    gates(settings, &mut faults);
    faults
}

fn models_and_data(s: &Settings, faults: &mut Vec<String>) {
    if s.strong.model.is_empty() {
        faults.push("strong.model is empty: give a model directory or builtin:NAME".to_owned());
    }
    if s.data.source == DataSource::Gsm8k && s.data.path.is_empty() {
        faults.push("data.path is empty: give the directory that holds train.jsonl".to_owned());
    }
    if s.train.refill && s.reward.shuffle {
        faults.push(
            "train.refill is on but reward.shuffle permutes rewards over the whole step: no group \
             can be judged by its own, turn one of them off"
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

fn evaluation(s: &Settings, faults: &mut Vec<String>) {
    let e = &s.eval;
    for k in e.pass_at.iter().filter(|k| **k == 0 || **k > e.samples.max(1)) {
        faults.push(format!(
            "eval.pass_at has {k} but eval.samples is {}: pass@k needs k from 1 to that",
            e.samples
        ));
    }
    if e.pass_at.is_empty() {
        faults.push("eval.pass_at is empty: give at least one k, like [1]".to_owned());
    }
    if s.actor.slots < e.samples {
        faults.push(format!(
            "actor.slots is {} but eval.samples is {}: all samples of a problem must fit",
            s.actor.slots, e.samples
        ));
    }
    if s.data.source == DataSource::Miniature {
        if e.split == EvalSplit::Test {
            faults.push("eval.split is test but the miniature has held-out only".to_owned());
        }
        if s.reward.grader != Grader::Own {
            faults.push("reward.grader is GSM8K's but data.source is miniature".to_owned());
        }
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
    let forwards = [
        ("actor.batch_tokens", s.actor.batch_tokens, "actor.slots", s.actor.slots),
        (
            "weak_server.batch_tokens",
            s.weak_server.batch_tokens,
            "weak_server.batch_rows",
            s.weak_server.batch_rows,
        ),
    ];
    for (key, tokens, rows_key, rows) in forwards {
        if tokens > 0 && tokens < rows {
            faults.push(format!(
                "{key} is {tokens} but {rows_key} is {rows}: every row needs a token of a forward"
            ));
        }
    }
    let under_way = s.groups_per_step() * (u64::from(s.staleness.max_versions) + 1);
    let inbox = s.learner.inbox_groups;
    if s.train.objective != Objective::Sft && u64::from(inbox) < under_way {
        faults.push(format!(
            "learner.inbox_groups is {inbox} but {under_way} groups may be under way \
             (train.problems_per_step × (staleness.max_versions + 1)): raise it or lower those"
        ));
    }
    if s.limits.message_bytes < MESSAGE_BYTES_MIN {
        faults.push(format!(
            "limits.message_bytes is {} but must be at least {MESSAGE_BYTES_MIN}: weights travel \
             in chunks of about half of that",
            s.limits.message_bytes
        ));
    }
}

fn deadlines(s: &Settings, faults: &mut Vec<String>) {
    let tries = u64::from(s.actor.span_retries_max) + 1;
    let span_ms = u64::from(s.actor.span_deadline_ms) * tries;
    let lease_ms = s.coordinator.lease_deadline_ms;
    if span_ms >= u64::from(lease_ms) {
        faults.push(format!(
            "coordinator.lease_deadline_ms is {lease_ms} but one span may take {span_ms} ms \
             (actor.span_deadline_ms × (actor.span_retries_max + 1)): raise it or lower those"
        ));
    }
    let stall_ms = s.coordinator.stall_timeout_ms;
    if stall_ms > 0 && stall_ms <= lease_ms {
        faults.push(format!(
            "coordinator.stall_timeout_ms is {stall_ms} but one lease may run {lease_ms} ms \
             (coordinator.lease_deadline_ms): raise it or lower that"
        ));
    }
    let (journal_ms, call_ms) = (s.coordinator.journal_timeout_ms, s.limits.call_timeout_ms);
    if call_ms > 0 && journal_ms >= call_ms {
        faults.push(format!(
            "coordinator.journal_timeout_ms is {journal_ms} but a call is given up after {call_ms} \
             ms (limits.call_timeout_ms): lower it or raise that, so that the caller learns why"
        ));
    }
    if s.shutdown.grace_seconds > 3600.0 {
        faults.push("shutdown.grace_seconds is over an hour".to_owned());
    }
}

fn lora(s: &Settings, faults: &mut Vec<String>) {
    let lora = &s.train.lora;
    if !(lora.alpha.is_finite() && lora.alpha > 0.0) {
        faults.push(format!("train.lora.alpha is {} but must be above 0", lora.alpha));
    }
    for (index, target) in lora.targets.iter().enumerate() {
        if !LORA_TARGETS.contains(&target.as_str()) {
            let known = LORA_TARGETS.join(", ");
            faults.push(format!("train.lora.targets names {target}: give some of {known}"));
        }
        if lora.targets[..index].contains(target) {
            faults.push(format!("train.lora.targets names {target} twice"));
        }
    }
    if lora.rank > 0 && lora.targets.is_empty() {
        faults.push("train.lora.targets is empty: nothing would be trained".to_owned());
    }
}

fn gates(s: &Settings, faults: &mut Vec<String>) {
    let g = &s.gates;
    for (name, low, high) in
        [("solo", g.solo_min, g.solo_max), ("jargon", g.jargon_min, g.jargon_max)]
    {
        if low > high {
            faults.push(format!("gates.{name}_min is {low}, above gates.{name}_max of {high}"));
        }
    }
    let lows = [g.plain_solo_min, g.solo_min, g.jargon_min];
    let bounded = lows.iter().any(|low| *low > 0.0) || g.solo_max < 1.0 || g.jargon_max < 1.0;
    if bounded && g.problems == 0 {
        faults.push(
            "gates.problems is 0, so the gates' bounds would not be checked: give a number of \
             problems, or no bounds"
                .to_owned(),
        );
    }
}
