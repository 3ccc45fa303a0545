//! Rules about one number each.

use crate::schema::Settings;

/// TOML's whole numbers end here; a larger one could not be handed to the other programs.
const WHOLE_MAX: u64 = i64::MAX.unsigned_abs();

pub(super) fn faults(s: &Settings, faults: &mut Vec<String>) {
    at_least_one(s, faults);
    writable(s, faults);
    shares(s, faults);
    amounts(s, faults);
}

fn at_least_one(s: &Settings, faults: &mut Vec<String>) {
    let counts = [
        ("train.problems_per_step", s.train.problems_per_step),
        ("train.samples_per_problem", s.train.samples_per_problem),
        ("train.micro_batch_tokens", s.train.micro_batch_tokens),
        ("train.logprob_chunk_tokens", s.train.logprob_chunk_tokens),
        ("handoff.max_gap", s.handoff.max_gap),
        ("handoff.chunk_tokens", s.handoff.chunk_tokens),
        ("sampling.max_tokens", s.sampling.max_tokens),
        ("data.shard_problems", s.data.shard_problems),
        ("eval.samples", s.eval.samples),
        ("recipe.sft_examples_per_step", s.recipe.sft_examples_per_step),
        ("recipe.probe_problems", s.recipe.probe_problems),
        ("actor.slots", s.actor.slots),
        ("actor.slot_tokens", s.actor.slot_tokens),
        ("actor.batch_tokens", s.actor.batch_tokens),
        ("actor.span_deadline_ms", s.actor.span_deadline_ms),
        ("actor.lease_wait_ms", s.actor.lease_wait_ms),
        ("actor.weak_outbox_messages", s.actor.weak_outbox_messages),
        ("actor.uplink_groups", s.actor.uplink_groups),
        ("learner.inbox_groups", s.learner.inbox_groups),
        ("learner.ring_join_timeout_ms", s.learner.ring_join_timeout_ms),
        ("learner.ring_call_timeout_ms", s.learner.ring_call_timeout_ms),
        ("weak_server.sessions", s.weak_server.sessions),
        ("weak_server.session_tokens", s.weak_server.session_tokens),
        ("weak_server.batch_rows", s.weak_server.batch_rows),
        ("weak_server.batch_tokens", s.weak_server.batch_tokens),
        ("weak_server.queue_requests", s.weak_server.queue_requests),
        ("weak_server.reply_messages", s.weak_server.reply_messages),
        ("weak_server.streams", s.weak_server.streams),
        ("checkpoint.keep", s.checkpoint.keep),
        ("checkpoint.write_timeout_ms", s.checkpoint.write_timeout_ms),
        ("coordinator.lease_deadline_ms", s.coordinator.lease_deadline_ms),
        ("coordinator.group_deals_max", s.coordinator.group_deals_max),
        ("coordinator.weights_kept", s.coordinator.weights_kept),
        ("coordinator.actors_min", s.coordinator.actors_min),
        ("coordinator.keepalive_ms", s.coordinator.keepalive_ms),
        ("coordinator.return_timeout_ms", s.coordinator.return_timeout_ms),
        ("coordinator.start_timeout_ms", s.coordinator.start_timeout_ms),
        ("coordinator.gather_timeout_ms", s.coordinator.gather_timeout_ms),
        ("coordinator.stall_timeout_ms", s.coordinator.stall_timeout_ms),
        ("coordinator.journal_timeout_ms", s.coordinator.journal_timeout_ms),
        ("store.timeout_ms", s.store.timeout_ms),
        ("placement.query_timeout_ms", s.placement.query_timeout_ms),
        ("admin.progress_limit_ms", s.admin.progress_limit_ms),
        ("track.queue_records", s.track.queue_records),
        ("track.request_timeout_ms", s.track.request_timeout_ms),
        ("track.finish_timeout_ms", s.track.finish_timeout_ms),
        ("limits.connect_timeout_ms", s.limits.connect_timeout_ms),
        ("limits.call_timeout_ms", s.limits.call_timeout_ms),
        ("limits.connections", s.limits.connections),
        ("limits.admin_connections", s.limits.admin_connections),
        ("limits.handshake_timeout_ms", s.limits.handshake_timeout_ms),
        ("limits.connection_calls", s.limits.connection_calls),
        ("limits.pending_resets", s.limits.pending_resets),
    ];
    for (key, value) in counts {
        if value == 0 {
            faults.push(format!("{key} is 0 but must be at least 1"));
        }
    }
}

fn writable(s: &Settings, faults: &mut Vec<String>) {
    let numbers = [
        ("seed", s.seed),
        ("eval.seed", s.eval.seed),
        ("data.shots_seed", s.data.shots_seed),
        ("checkpoint.free_bytes_min", s.checkpoint.free_bytes_min),
        ("limits.message_bytes", s.limits.message_bytes),
        ("limits.weights_bytes", s.limits.weights_bytes),
        ("coordinator.journal_queue_bytes", s.coordinator.journal_queue_bytes),
    ];
    for (key, value) in numbers {
        if value > WHOLE_MAX {
            faults.push(format!("{key} is {value} but must be at most {WHOLE_MAX}"));
        }
    }
}

fn shares(s: &Settings, faults: &mut Vec<String>) {
    let up_to_one = [
        ("handoff.stay", s.handoff.stay),
        ("data.jargon_share", s.data.jargon_share),
        ("data.annotated_share", s.data.annotated_share),
        ("recipe.annotated_share", s.recipe.annotated_share),
        ("train.learning_rate_floor", s.train.learning_rate_floor),
        ("sampling.top_p", f64::from(s.sampling.top_p)),
        ("gates.plain_solo_min", s.gates.plain_solo_min),
        ("gates.solo_min", s.gates.solo_min),
        ("gates.solo_max", s.gates.solo_max),
        ("gates.jargon_min", s.gates.jargon_min),
        ("gates.jargon_max", s.gates.jargon_max),
    ];
    for (key, value) in up_to_one {
        if !(0.0..=1.0).contains(&value) {
            faults.push(format!("{key} is {value} but must lie between 0 and 1"));
        }
    }
    let below_one = [
        ("train.clip_low", s.train.clip_low),
        ("placement.reserve_share", s.placement.reserve_share),
        ("train.beta1", s.train.beta1),
        ("train.beta2", s.train.beta2),
    ];
    for (key, value) in below_one {
        if !(0.0..1.0).contains(&value) {
            faults.push(format!("{key} is {value} but must be at least 0 and below 1"));
        }
    }
}

fn amounts(s: &Settings, faults: &mut Vec<String>) {
    let not_negative = [
        ("train.kl", s.train.kl),
        ("train.learning_rate", s.train.learning_rate),
        ("recipe.sft_learning_rate", s.recipe.sft_learning_rate),
        ("train.weight_decay", s.train.weight_decay),
        ("train.clip_high", s.train.clip_high),
        ("sampling.temperature", f64::from(s.sampling.temperature)),
        ("shutdown.grace_seconds", s.shutdown.grace_seconds),
    ];
    for (key, value) in not_negative {
        if !(value.is_finite() && value >= 0.0) {
            faults.push(format!("{key} is {value} but must be a number at least 0"));
        }
    }
    let norm = s.train.grad_norm_max;
    if norm.is_nan() || norm <= 0.0 {
        faults.push(format!("train.grad_norm_max is {norm} but must be above 0"));
    }
    let cap = s.train.ratio_cap;
    if cap.is_nan() || cap < 1.0 {
        faults.push(format!("train.ratio_cap is {cap} but must be at least 1"));
    }
}
