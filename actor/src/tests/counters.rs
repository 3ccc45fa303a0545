//! The counter that the handoff success rate is made of: what ends how, and under which labels.

use super::*;
use crate::metrics::ALL;
use crate::{SpanAsk, SpanOutcome, SpanTaken};

/// The counter's lines that are not zero, without its name.
fn counted(body: impl FnOnce()) -> Vec<String> {
    let (recorder, exporter) = telemetry::Exporter::build(&[]).unwrap();
    metrics::with_local_recorder(&recorder, || {
        telemetry::describe(ALL);
        body();
    });
    let text = exporter.render();
    let lines = text.lines().filter_map(|line| line.strip_prefix("tandem_actor_rollouts_total"));
    let mut lines: Vec<String> =
        lines.filter(|line| !line.ends_with(" 0")).map(ToOwned::to_owned).collect();
    lines.sort();
    lines
}

/// What the weak model is made to write.
fn says(ask: &SpanAsk, tokens: Vec<TokenId>) -> SpanOutcome {
    let written = proto::SpanWritten {
        logprobs: vec![-0.5; tokens.len()],
        append_logprobs: vec![-0.5; ask.response.len() - ask.known as usize],
        tokens,
        ..proto::SpanWritten::default()
    };
    let latency = Duration::from_millis(1);
    let taken = SpanTaken { from: ask.known, written, latency, retries: 0 };
    SpanOutcome { rollout: ask.rollout, result: Ok(taken) }
}

/// The worked solution of the item's problem, end included.
fn solution(item: &WorkItem) -> Vec<TokenId> {
    rules().task.solution(&item.problem).unwrap()
}

fn wrong(item: &WorkItem) -> Vec<TokenId> {
    let mut tokens = solution(item);
    let answer = tokens.len() - 2;
    tokens[answer] = if tokens[answer] == 45 { 46 } else { 45 };
    tokens
}

#[test]
fn each_outcome_of_the_weak_models_own_rollouts_is_counted_once() {
    let lines = counted(|| {
        let mut writer = Writer::new(rules(), 8);
        let limit = Sampling { max_tokens: 60, ..item("token:1", 7, 1).sampling };
        let work = WorkItem { sampling: limit, ..item("token:1", 7, 3) };
        writer.admit(work.clone(), Instant::now());
        let asks = writer.take_output().asks;
        writer.answer(says(&asks[0], solution(&work)));
        writer.answer(says(&asks[1], wrong(&work)));
        writer.answer(says(&asks[2], vec![5; 60]));
    });
    let line =
        |outcome: &str| format!("{{purpose=\"train\",handoff=\"yes\",outcome=\"{outcome}\"}} 1");
    assert_eq!(lines, ["correct", "truncated", "wrong"].map(line));
}

#[test]
fn the_strong_model_alone_counts_without_handoff_under_its_purpose() {
    let lines = counted(|| {
        let mut writer = Writer::new(rules(), 8);
        writer.set_weights(strong(1), V0).unwrap();
        let mut work = WorkItem { purpose: Purpose::Eval, ..item("token:0", 8, 5) };
        let stops = rules().task.stops().to_vec();
        // Three tokens without an end, as often as there are samples.
        (work.sampling.max_tokens, work.sampling.banned) = (3, stops);
        writer.admit(work, Instant::now());
        while writer.waiting().free < 8 {
            writer.tick().unwrap();
        }
    });
    assert_eq!(lines, ["{purpose=\"eval\",handoff=\"no\",outcome=\"truncated\"} 5"]);
}

#[test]
fn every_sample_of_a_group_that_is_given_up_counts_as_failed_with_its_handoff() {
    let lines = counted(|| {
        let mut writer = Writer::new(rules(), 8);
        let work = item("token:1", 9, 4);
        writer.admit(work.clone(), Instant::now());
        let asks = writer.take_output().asks;
        // The first is done, the second is half written, the third breaks off in the middle and
        // takes the group with it, the fourth has no token yet.
        writer.answer(says(&asks[0], vec![5, rules().task.stops()[0]]));
        writer.answer(says(&asks[1], vec![5]));
        writer.answer(says(&asks[2], vec![5]));
        writer.answer(SpanOutcome { rollout: asks[2].rollout, result: Err("gone".to_owned()) });
        let ended = writer.take_output().ended;
        assert!(matches!(&ended[..], [Ended::Failed(_)]), "{ended:?}");
        // And one that no slot ever held.
        writer.admit(item("often", 10, 2), Instant::now());
    });
    let failed = |handoff: &str, count| {
        format!("{{purpose=\"train\",handoff=\"{handoff}\",outcome=\"failed\"}} {count}")
    };
    assert_eq!(lines, [failed("no", 3), failed("yes", 3)]);
}
