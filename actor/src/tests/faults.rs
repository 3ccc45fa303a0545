//! With one slot, any fault of the weak server ends in the very rollout that is written without
//! it: through the engine's thread, the weak source and real gRPC.

use std::time::Duration;

use proto::{ChannelSettings, Directive, SpanFault};
use runtime::{Shutdown, TaskGroup, within};
use telemetry::Health;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use types::Hash;

use super::served::{Script, Seen, ServedWeak};
use super::*;
use crate::{Command, Engine, Ports, Report, SpanLimits, Status, WeakSource, WeakSourceSettings};

const AMPLE: Duration = Duration::from_secs(120);

/// How the one group of a run ended, and what the weak server saw.
struct Run {
    ended: Result<RolloutGroup, String>,
    seen: Seen,
}

async fn run(script: &[Script], limits: SpanLimits) -> Run {
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new(shutdown.clone());
    let (served, address) = ServedWeak::start(NaiveWeak::new(12), script, &tasks).await;

    let (commands, engine_commands) = mpsc::channel(16);
    let (weak, weak_work) = mpsc::channel(16);
    let (learner, mut groups) = mpsc::channel(16);
    let (coordinator, mut reports) = mpsc::channel(16);
    let (status, _) = watch::channel(Status::default());
    let ports = Ports { commands: engine_commands, weak, learner, coordinator, status };
    let writer = Writer::new(rules(), 1);
    let engine = Engine::new(writer, ports, shutdown.clone(), Health::of_progress(AMPLE));
    let runtime = Handle::current();
    tasks.spawn_thread("engine", move || engine.run(&runtime)).unwrap();

    let directive = Directive { weak_servers: vec![address], ..Directive::default() };
    let (_directing, directives) = watch::channel(directive);
    let settings = WeakSourceSettings {
        channel: ChannelSettings::default(),
        limits,
        outbox_messages: 4,
        actor: "actor-0".to_owned(),
        index: 0,
        tokenizer: Hash([0; 32]),
        stops: rules().task.stops().to_vec(),
    };
    let source = WeakSource::new(settings, directives, weak_work, commands.clone());
    tasks.spawn("weak source", source.run(shutdown.clone()));

    commands.send(Command::Weights { decoder: strong(11), version: V0 }).await.unwrap();
    let work = Command::Work { items: vec![long_item()], asked: Instant::now() };
    commands.send(work).await.unwrap();
    let ended = within("the group", AMPLE, async {
        tokio::select! {
            Some(group) = groups.recv() => Ok(group),
            Some(Report::Failed(failed)) = reports.recv() => Err(failed.detail),
        }
    });
    let ended = ended.await.unwrap();
    shutdown.trigger("the group has ended");
    tasks.join(AMPLE).await.unwrap();
    Run { ended, seen: served.seen() }
}

/// No end may be drawn, so that there are many handoffs.
fn long_item() -> proto::WorkItem {
    let mut item = item("word:0.5", 60, 1);
    item.sampling.banned.extend(rules().task.stops());
    item
}

fn patient() -> SpanLimits {
    SpanLimits { deadline: Duration::from_secs(30), retries_max: 5 }
}

/// Everything but times and retries.
fn assert_equal(run: &Run, undisturbed: &Run) {
    let of = |run: &Run| run.ended.clone().unwrap().samples.remove(0).into_parts();
    let (found, expected) = (of(run), of(undisturbed));
    assert_eq!(found.tokens, expected.tokens);
    assert_eq!(found.authors, expected.authors);
    assert_eq!(found.logprobs, expected.logprobs);
    assert_close(&found.weak_logprobs, &expected.weak_logprobs);
    assert_eq!((found.finish, found.verdict), (expected.finish, expected.verdict));
    assert_replays(run.ended.as_ref().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_streams_lost_sessions_and_a_busy_server_change_nothing() {
    use Script::{Answer, Break, Evict, Serve};
    let undisturbed = run(&[], patient()).await;
    let group = undisturbed.ended.as_ref().unwrap();
    let (strong, weak) = (strong(11), NaiveWeak::new(12));
    let expected = reference(&long_item(), 0, &weak, |_| (&strong, V0));
    assert_same(group, 0, expected);
    let spans = group.samples[0].parts().spans.iter();
    let spans = spans.filter(|span| span.author == types::Author::Weak).count() as u32;
    assert!(spans >= 4, "the rollout has only {spans} weak spans");
    let seen = Seen { streams: 1, requests: spans, opened: 1, ..Seen::default() };
    assert_eq!(Seen { closed: 0, ..undisturbed.seen }, seen);

    let broken = run(&[Serve, Break, Serve, Break, Break, Serve], patient()).await;
    assert_equal(&broken, &undisturbed);
    assert_eq!((broken.seen.streams, broken.seen.requests), (4, spans + 3));

    let evicted = run(&[Serve, Evict, Serve, Serve, Evict], patient()).await;
    assert_equal(&evicted, &undisturbed);
    assert_eq!((evicted.seen.opened, evicted.seen.requests), (3, spans + 2));

    let busy = [SpanFault::Overloaded, SpanFault::Deadline, SpanFault::Prefix].map(Answer);
    let busy = run(&busy, patient()).await;
    assert_equal(&busy, &undisturbed);
    let retries = busy.ended.unwrap().samples[0].parts().spans.iter().map(|s| s.retries).sum();
    assert_eq!((busy.seen.requests, 3u32), (spans + 3, retries));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_on_a_fresh_session() {
    let undisturbed = run(&[], patient()).await;
    let hasty = SpanLimits { deadline: Duration::from_secs(2), retries_max: 5 };
    let silent = run(&[Script::Serve, Script::Silence], hasty).await;
    assert_equal(&silent, &undisturbed);
    assert!(silent.seen.requests > undisturbed.seen.requests);
    assert!(silent.seen.opened >= 2 && silent.seen.closed >= 1, "{:?}", silent.seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_recovers_costs_the_group_not_the_run() {
    let limits = SpanLimits { retries_max: 2, ..patient() };
    let unknown = Script::Answer(SpanFault::UnknownSession);
    let given_up = run(&[unknown; 9], limits).await;
    let expected = "weak span given up after 2 retries, last: unknown_session";
    assert_eq!(given_up.ended.unwrap_err(), expected);
    assert_eq!(given_up.seen.requests, 3);

    let invalid = run(&[Script::Answer(SpanFault::Invalid)], limits).await;
    assert_eq!(invalid.ended.unwrap_err(), "weak server: scripted");
    assert_eq!(invalid.seen.requests, 1);
}
