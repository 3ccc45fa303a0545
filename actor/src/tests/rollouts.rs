//! What the writer writes: equal to the reference, truthfully labelled, whole.

use model::{RaggedEngine, RowInput, Want};
use proto::ReturnReason;
use types::Author;

use super::*;
use crate::SpanOutcome;

const SCHEDULES: [&str; 7] = [
    "token:0",
    "token:1",
    "word:0.25",
    "line:0.5",
    "chunk:4:0.5",
    "alternate:word",
    "takeover:0.5",
];

#[test]
fn with_one_slot_every_schedule_gives_the_reference() {
    let (strong, weak) = (strong(1), NaiveWeak::new(2));
    let mut ends = 0;
    for (group, schedule) in (0..).zip(SCHEDULES) {
        let mut writer = Writer::new(rules(), 1);
        writer.set_weights(strong.clone(), V0).unwrap();
        let item = item(schedule, group, 1);
        writer.admit(item.clone(), Instant::now());
        let group = only_group(drive(&mut writer, &weak, |_, _| {}));
        assert_same(&group, 0, reference(&item, 0, &weak, |_| (&strong, V0)));
        assert_replays(&group);
        ends += usize::from(group.samples[0].parts().finish == types::Finish::End);
    }
    assert!(ends >= 3, "only {ends} of the texts ended by themselves");
}

#[test]
fn groups_side_by_side_share_prompts_and_give_the_reference() {
    let (strong, weak) = (strong(3), NaiveWeak::new(4));
    let mut writer = Writer::new(rules(), 20);
    writer.set_weights(strong.clone(), V0).unwrap();
    let items = [item("word:0.25", 10, 8), item("line:0.5", 11, 8), item("token:0", 12, 1)];
    let prompt = rules().task.strong_prompt(&items[0].problem).unwrap().len();
    // A group's first tick reads its prompt once, for all samples that begin.
    writer.admit(items[0].clone(), Instant::now());
    let first = writer.tick().unwrap();
    assert_eq!((first.rows, first.tokens), (1, prompt));
    for item in &items[1..] {
        writer.admit(item.clone(), Instant::now());
    }
    assert_eq!(writer.admitted(), 17);
    let ended = drive(&mut writer, &weak, |_, _| {});
    assert_eq!(ended.len(), 3);
    for ended in ended {
        let Ended::Complete(group) = ended else { panic!("a group failed") };
        let item = items.iter().find(|item| item.group == group.group).unwrap();
        assert_eq!(group.samples.len(), item.samples as usize);
        assert_eq!((group.lease, group.epoch), (item.lease, item.epoch));
        assert_replays(&group);
        for sample in 0..group.samples.len() {
            assert_same(&group, sample, reference(item, sample, &weak, |_| (&strong, V0)));
        }
    }
    assert_eq!(writer.waiting().free, 20);
}

#[test]
fn new_weights_in_mid_rollout_label_and_recompute_every_token_truthfully() {
    let (old, new, weak) = (strong(5), strong(6), NaiveWeak::new(7));
    let mut writer = Writer::new(rules(), 8);
    writer.set_weights(old.clone(), V0).unwrap();
    let item = item("word:0.25", 20, 8);
    writer.admit(item.clone(), Instant::now());
    let ended = drive(&mut writer, &weak, |writer, tick| {
        if tick == 9 {
            writer.set_weights(new.clone(), V1).unwrap();
        }
    });
    let group = only_group(ended);
    assert_replays(&group);
    let mut both = 0;
    for (sample, rollout) in group.samples.iter().enumerate() {
        let parts = rollout.parts();
        let strong = rollout.response().filter(|at| parts.authors[*at] == Author::Strong);
        let versions: Vec<PolicyVersion> = strong.map(|at| parts.versions[at]).collect();
        assert!(versions.is_sorted(), "{versions:?}");
        both += usize::from(versions.contains(&V0) && versions.contains(&V1));
        let prompt = parts.prompt_len;
        let expected = reference(&item, sample, &weak, |position| {
            match parts.versions[prompt + position as usize] {
                V1 => (&new, V1),
                _ => (&old, V0),
            }
        });
        assert_same(&group, sample, expected);
    }
    assert!(both >= 4, "only {both} rollouts have tokens of both versions");
}

/// One sample alone in an engine of its own, each token read by the weights of the next one.
fn continued(
    item: &WorkItem,
    sample: usize,
    [old, new]: [&Decoder; 2],
    swapped: impl Fn(u32) -> bool,
) -> Session {
    let (group, mut sessions) = Group::open(item.clone(), Instant::now(), &rules()).unwrap();
    let mut session = sessions.remove(sample);
    let mut engine = RaggedEngine::new(old.clone(), 1, 128).unwrap();
    while let Turn::Strong { position } = session.turn() {
        let version = if swapped(position) { V1 } else { V0 };
        if swapped(position) {
            engine.set_decoder(new.clone(), model::Rows::Kept).unwrap();
        }
        let text = [&session.plan().prompt, session.response()].concat();
        let tokens = &text[engine.len(0)..];
        let output = engine.step(&[RowInput { row: 0, tokens, want: Want::Last }]).unwrap();
        let logits = output.logits().unwrap().to_vec2().unwrap().remove(0);
        let u = session.plan().key.uniform(u64::from(position));
        let sampled = model::sample(&logits, &group.sampler, u).unwrap();
        session.push_strong(sampled.token, sampled.logprob, version).unwrap();
    }
    session
}

#[test]
fn a_cache_that_is_kept_is_gone_on_from_by_the_new_weights() {
    let (old, new) = (strong(5), strong(6));
    let keep = Rules { cache_on_swap: settings::CacheOnSwap::Keep, ..rules() };
    let mut writer = Writer::new(keep, 8);
    writer.set_weights(old.clone(), V0).unwrap();
    let item = item("token:0", 20, 8);
    writer.admit(item.clone(), Instant::now());
    let mut read = Vec::new();
    while writer.waiting().free < 8 {
        if read.len() == 5 {
            writer.set_weights(new.clone(), V1).unwrap();
        }
        read.push(writer.tick().unwrap());
    }
    assert!(read[5].tokens == read[5].rows && read[5].rows > 3, "one token each: {:?}", read[5]);
    let group = only_group(writer.take_output().ended);
    assert_replays(&group);
    let mut further = 0.0f32;
    for (sample, rollout) in group.samples.iter().enumerate() {
        let parts = rollout.parts();
        let swapped = |position: u32| parts.versions[parts.prompt_len + position as usize] == V1;
        assert_same(&group, sample, continued(&item, sample, [&old, &new], swapped));
        // What the new weights say of the same tokens when they have read them all.
        for at in rollout.response().filter(|at| parts.versions[*at] == V1) {
            let logits = next_logits(&new, &parts.tokens[..at]);
            let (opened, _) = Group::open(item.clone(), Instant::now(), &rules()).unwrap();
            let alone = model::logprob_of(&logits, &opened.sampler, parts.tokens[at]).unwrap();
            further = further.max((parts.logprobs[at] - alone).abs());
        }
    }
    assert!(further > 0.01, "the old cache makes a difference: {further}");
}

#[test]
fn the_weak_model_alone_costs_the_strong_one_nothing_and_the_other_way_round() {
    let (strong, weak) = (strong(1), NaiveWeak::new(2));
    let mut writer = Writer::new(rules(), 4);
    writer.set_weights(strong.clone(), V0).unwrap();
    writer.admit(item("token:1", 30, 4), Instant::now());
    assert_eq!(writer.waiting(), crate::Waiting { free: 0, strong: 0, weak: 4 });
    assert_eq!(writer.tick().unwrap().tokens, 0);
    let output = writer.take_output();
    assert_eq!(output.asks.len(), 4);
    output.asks.iter().for_each(|ask| writer.answer(weak.outcome(ask)));
    assert_eq!(writer.waiting().free, 4);
    assert_eq!(writer.take_output().closed.len(), 4);

    writer.admit(item("token:0", 31, 4), Instant::now());
    while writer.waiting().free < 4 {
        writer.tick().unwrap();
    }
    let output = writer.take_output();
    assert!(output.asks.is_empty() && output.closed.is_empty());
    assert_eq!(output.ended.len(), 1);
}

#[test]
fn a_failed_rollout_gives_its_group_up_and_frees_its_slots() {
    let (strong, weak) = (strong(1), NaiveWeak::new(2));
    let mut writer = Writer::new(rules(), 8);
    writer.set_weights(strong.clone(), V0).unwrap();
    writer.admit(item("token:1", 40, 3), Instant::now());
    writer.admit(item("token:1", 41, 3), Instant::now());
    let asks = writer.take_output().asks;
    // The first sample of the first group is done, the second fails, the third comes too late.
    writer.answer(weak.outcome(&asks[0]));
    writer.answer(SpanOutcome { rollout: asks[1].rollout, result: Err("gone".to_owned()) });
    asks[2..].iter().for_each(|ask| writer.answer(weak.outcome(ask)));
    let output = writer.take_output();
    let [Ended::Failed(failed), Ended::Complete(group)] = &output.ended[..] else {
        panic!("{:?}", output.ended)
    };
    assert_eq!((failed.group, failed.detail.as_str()), (GroupId(40), "problem 40: gone"));
    assert_eq!(group.group, GroupId(41));
    assert_eq!((writer.waiting().free, output.closed.len()), (8, 6));
}

#[test]
fn impossible_work_is_given_back_with_the_way_out() {
    let refused = |change: fn(&mut WorkItem)| {
        let mut writer = Writer::new(rules(), 8);
        let mut item = item("word:0.25", 50, 2);
        change(&mut item);
        writer.admit(item, Instant::now());
        let ended = writer.take_output().ended;
        let [Ended::Failed(failed)] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!((writer.waiting().free, failed.epoch), (8, Epoch(1)));
        (failed.reason, failed.detail.clone())
    };
    let impossible = |change: fn(&mut WorkItem), why: &str| {
        let (reason, detail) = refused(change);
        assert!(reason == ReturnReason::Impossible && detail.contains(why), "{reason:?} {detail}");
    };
    impossible(|item| item.sampling.max_tokens = 500, "actor.slot_tokens = 128: raise it");
    impossible(|item| item.schedule = "often".to_owned(), "often");
    impossible(|item| item.problem.question = "what ?".to_owned(), "problem");
    impossible(|item| item.samples = 0, "no samples");
    // Another actor may have the room.
    let (reason, detail) = refused(|item| item.samples = 9);
    assert!(reason == ReturnReason::Failed && detail.contains("no room"), "{reason:?} {detail}");
}

#[test]
fn a_bound_of_tokens_changes_no_rollout_and_is_never_exceeded() {
    let (strong, weak) = (strong(3), NaiveWeak::new(4));
    for batch_tokens in [1, 4, 11] {
        let mut writer = Writer::new(Rules { batch_tokens, ..rules() }, 6);
        writer.set_weights(strong.clone(), V0).unwrap();
        let item = item("word:0.25", 10, 4);
        writer.admit(item.clone(), Instant::now());
        let (mut swaps, mut ended, mut most) = (0, Vec::new(), 0);
        while writer.waiting().free < 6 {
            let output = writer.take_output();
            ended.extend(output.ended);
            let tick = writer.tick().unwrap();
            most = most.max(tick.tokens);
            output.asks.iter().for_each(|ask| writer.answer(weak.outcome(ask)));
            // Every cache is read again, the same weights being put in place.
            if most > 0 && tick.rows > 1 && swaps < 2 {
                writer.set_weights(strong.clone(), V0).unwrap();
                swaps += 1;
            }
        }
        ended.extend(writer.take_output().ended);
        // One token is kept for each row behind, used or not.
        assert!(most <= batch_tokens && most + 3 >= batch_tokens, "{most} of {batch_tokens}");
        let group = only_group(ended);
        assert_replays(&group);
        for sample in 0..4 {
            assert_same(&group, sample, reference(&item, sample, &weak, |_| (&strong, V0)));
        }
    }
}

#[test]
fn a_lease_that_has_ended_gives_its_slots_back_and_says_so() {
    let (strong, weak) = (strong(1), NaiveWeak::new(2));
    let mut writer = Writer::new(rules(), 8);
    writer.set_weights(strong.clone(), V0).unwrap();
    let start = Instant::now();
    writer.admit(item("token:1", 40, 3), start);
    writer.admit(item("token:1", 41, 3), start + Duration::from_secs(1));
    let asks = writer.take_output().asks;
    assert_eq!(asks[0].until, start + Duration::from_secs(60));
    writer.answer(weak.outcome(&asks[0]));
    writer.expire(start + Duration::from_millis(59_999));
    assert!(writer.take_output().ended.is_empty());
    writer.expire(start + Duration::from_secs(60));
    let output = writer.take_output();
    let [Ended::Failed(failed)] = &output.ended[..] else { panic!("{:?}", output.ended) };
    assert_eq!((failed.group, writer.waiting().free), (GroupId(40), 5));
    let expected = "its lease of 60000 ms ended with 1 of 3 samples written";
    assert!(failed.detail.starts_with(expected), "{}", failed.detail);
    assert!(failed.detail.contains("coordinator.lease_deadline_ms"), "{}", failed.detail);
    assert_eq!(output.closed.len(), 2);
}

#[test]
fn the_weak_model_alone_ends_its_texts_in_an_evaluation_whatever_training_forbids() {
    let settings = Settings {
        handoff: settings::Handoff { weak_may_end: false, ..settings::Handoff::default() },
        ..Settings::default()
    };
    let (strict, weak) = (Models::read(&settings).unwrap().rules, NaiveWeak::new(2));
    let ends = |purpose| {
        let mut writer = Writer::new(strict.clone(), 8);
        writer.admit(WorkItem { purpose, ..item("token:1", 60, 8) }, Instant::now());
        let group = only_group(drive(&mut writer, &weak, |_, _| {}));
        let ended = |rollout: &&types::Rollout| rollout.parts().finish == types::Finish::End;
        group.samples.iter().filter(ended).count()
    };
    assert_eq!(ends(Purpose::Train), 0);
    assert!(ends(Purpose::Eval) >= 4, "{}", ends(Purpose::Eval));
}
