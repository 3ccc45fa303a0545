//! With one slot, any fault of the weak server ends in the very rollout that is written without
//! it: through the engine's thread, the weak source and real gRPC.

use std::time::Duration;

use proto::SpanFault;
use runtime::{Shutdown, TaskGroup};

use super::harness::{AMPLE, Harness, assert_equal, long_item, patient, retries};
use super::served::{Script, Seen, ServedWeak};
use super::*;
use crate::SpanLimits;

/// How the one group of a run ended, and what the weak server saw.
struct Run {
    ended: Result<RolloutGroup, String>,
    seen: Seen,
}

impl Run {
    fn group(&self) -> &RolloutGroup {
        self.ended.as_ref().unwrap()
    }
}

async fn run(script: &[Script], limits: SpanLimits) -> Run {
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new(shutdown.clone());
    let (served, address) = ServedWeak::start(NaiveWeak::new(12), script, &tasks).await;
    let ended = Harness::start(vec![address], limits, &tasks).await.write(long_item()).await;
    shutdown.trigger("the group has ended");
    tasks.join(AMPLE).await.unwrap();
    Run { ended, seen: served.seen() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_streams_lost_sessions_and_a_busy_server_change_nothing() {
    use Script::{Answer, Break, Evict, Serve};
    let undisturbed = run(&[], patient()).await;
    let group = undisturbed.group();
    let (strong, weak) = (strong(11), NaiveWeak::new(12));
    let expected = reference(&long_item(), 0, &weak, |_| (&strong, V0));
    assert_same(group, 0, expected);
    let spans = group.samples[0].parts().spans.iter();
    let spans = spans.filter(|span| span.author == types::Author::Weak).count() as u32;
    assert!(spans >= 4, "the rollout has only {spans} weak spans");
    let seen = Seen { streams: 1, requests: spans, opened: 1, ..Seen::default() };
    assert_eq!(Seen { closed: 0, ..undisturbed.seen }, seen);

    let broken = run(&[Serve, Break, Serve, Break, Break, Serve], patient()).await;
    assert_equal(broken.group(), undisturbed.group());
    assert_eq!((broken.seen.streams, broken.seen.requests), (4, spans + 3));

    let evicted = run(&[Serve, Evict, Serve, Serve, Evict], patient()).await;
    assert_equal(evicted.group(), undisturbed.group());
    assert_eq!((evicted.seen.opened, evicted.seen.requests), (3, spans + 2));

    let busy = [SpanFault::Overloaded, SpanFault::Deadline, SpanFault::Prefix].map(Answer);
    let busy = run(&busy, patient()).await;
    assert_equal(busy.group(), undisturbed.group());
    assert_eq!((busy.seen.requests, retries(busy.group())), (spans + 3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_on_a_fresh_session() {
    let undisturbed = run(&[], patient()).await;
    let hasty = SpanLimits { deadline: Duration::from_secs(2), retries_max: 5 };
    let silent = run(&[Script::Serve, Script::Silence], hasty).await;
    assert_equal(silent.group(), undisturbed.group());
    assert!(silent.seen.requests > undisturbed.seen.requests);
    assert!(silent.seen.opened >= 2 && silent.seen.closed >= 1, "{:?}", silent.seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_nothing_for_too_long_is_left_for_another() {
    let undisturbed = run(&[], patient()).await;
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new(shutdown.clone());
    // It takes everything, answers pings, and its engine hangs from the second span on.
    let script = [&[Script::Serve][..], &[Script::Silence; 99]].concat();
    let (hanging, first) = ServedWeak::start(NaiveWeak::new(12), &script, &tasks).await;
    let (other, second) = ServedWeak::start(NaiveWeak::new(12), &[], &tasks).await;
    let hasty = SpanLimits { deadline: Duration::from_millis(700), retries_max: 50 };
    let mut actor = Harness::start(vec![first, second], hasty, &tasks).await;
    let group = actor.write(long_item()).await.unwrap();
    assert_equal(&group, undisturbed.group());
    // The three silences, and what was asked of it before.
    assert_eq!((hanging.seen().streams, hanging.seen().requests), (1, 4));
    assert!(other.seen().requests >= undisturbed.seen.requests - 1);
    shutdown.trigger("the group has ended");
    tasks.join(AMPLE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_recovers_costs_the_group_not_the_run() {
    let limits = SpanLimits { retries_max: 2, ..patient() };
    let unknown = Script::Answer(SpanFault::UnknownSession);
    let given_up = run(&[unknown; 9], limits).await;
    let expected = "problem 60: weak span given up after 2 retries, last: unknown_session";
    assert_eq!(given_up.ended.unwrap_err(), expected);
    assert_eq!(given_up.seen.requests, 3);

    let invalid = run(&[Script::Answer(SpanFault::Invalid)], limits).await;
    assert_eq!(invalid.ended.unwrap_err(), "problem 60: weak server: scripted");
    assert_eq!(invalid.seen.requests, 1);
}
