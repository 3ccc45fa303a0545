//! An actor's engine and weak source with the ends of their channels in a test's hands.

use std::time::Duration;

use proto::{ChannelSettings, Directive, WorkItem};
use runtime::{TaskGroup, within};
use telemetry::Health;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{Command, Engine, Ports, Report, SpanLimits, Status, WeakSource, WeakSourceSettings};

pub(super) const AMPLE: Duration = Duration::from_secs(120);

/// One slot, the strong model of seed 11.
pub(super) struct Harness {
    commands: mpsc::Sender<Command>,
    groups: mpsc::Receiver<RolloutGroup>,
    reports: mpsc::Receiver<Report>,
    /// Kept, for a source whose directives have ended stops looking for servers.
    _directing: watch::Sender<Directive>,
}

pub(super) fn patient() -> SpanLimits {
    SpanLimits { deadline: Duration::from_secs(30), retries_max: 5 }
}

/// No end may be drawn, so that there are many handoffs.
pub(super) fn long_item() -> WorkItem {
    let mut item = item("word:0.5", 60, 1);
    item.sampling.banned.extend(rules().task.stops());
    item
}

pub(super) fn source_settings(limits: SpanLimits) -> WeakSourceSettings {
    let task = rules().task;
    WeakSourceSettings {
        channel: ChannelSettings::default(),
        limits,
        outbox_messages: 4,
        actor: "actor-0".to_owned(),
        index: 0,
        tokenizer: task.tokenizer().fingerprint(),
        stops: task.stops().to_vec(),
    }
}

impl Harness {
    /// Runs until the shutdown of `tasks`, with weak servers at `addresses`.
    pub(super) async fn start(
        addresses: Vec<String>,
        limits: SpanLimits,
        tasks: &TaskGroup,
    ) -> Self {
        let shutdown = tasks.shutdown().clone();
        let (commands, engine_commands) = mpsc::channel(16);
        let (weak, weak_work) = mpsc::channel(16);
        let (learner, groups) = mpsc::channel(16);
        let (coordinator, reports) = mpsc::channel(16);
        let (status, _) = watch::channel(Status::default());
        let ports = Ports { commands: engine_commands, weak, learner, coordinator, status };
        let engine = Engine::new(
            Writer::new(rules(), 1),
            ports,
            shutdown.clone(),
            Health::of_progress(AMPLE),
        );
        let runtime = Handle::current();
        tasks.spawn_thread("engine", move || engine.run(&runtime)).unwrap();
        let directive = Directive { weak_servers: addresses, ..Directive::default() };
        let (directing, directives) = watch::channel(directive);
        let settings = source_settings(limits);
        let source = WeakSource::new(settings, directives, weak_work, commands.clone());
        tasks.spawn("weak source", source.run(shutdown));
        commands.send(Command::Weights { decoder: strong(11), version: V0 }).await.unwrap();
        Self { commands, groups, reports, _directing: directing }
    }

    pub(super) async fn begin(&self, item: WorkItem) {
        let work = Command::Work { items: vec![item], asked: Instant::now() };
        self.commands.send(work).await.unwrap();
    }

    /// The group, or why it was given up.
    pub(super) async fn ended(&mut self) -> Result<RolloutGroup, String> {
        let ended = within("the group", AMPLE, async {
            tokio::select! {
                Some(group) = self.groups.recv() => Ok(group),
                Some(Report::Failed(failed)) = self.reports.recv() => Err(failed.detail),
            }
        });
        ended.await.unwrap()
    }

    pub(super) async fn write(&mut self, item: WorkItem) -> Result<RolloutGroup, String> {
        self.begin(item).await;
        self.ended().await
    }
}

/// Everything but times and retries of two groups of one sample.
pub(super) fn assert_equal(found: &RolloutGroup, undisturbed: &RolloutGroup) {
    assert_replays(found);
    let [found, expected] = [found, undisturbed].map(|group| group.samples[0].parts());
    assert_eq!(found.tokens, expected.tokens);
    assert_eq!(found.authors, expected.authors);
    assert_close(&found.logprobs, &expected.logprobs);
    assert_close(&found.weak_logprobs, &expected.weak_logprobs);
    assert_eq!((found.finish, &found.verdict), (expected.finish, &expected.verdict));
}

pub(super) fn retries(group: &RolloutGroup) -> u32 {
    group.samples[0].parts().spans.iter().map(|span| span.retries).sum()
}
