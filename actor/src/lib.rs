//! The actor: writes rollouts, the strong model here and the weak one on its server, under leases
//! of the coordinator, and streams whole groups to the learner. This file only puts its parts
//! together.

mod engine;
mod feeding;
mod groups;
mod handover;
mod lease_holder;
pub mod metrics;
mod models;
mod parcels;
mod reports;
mod slots;
mod span_book;
mod uplink;
mod uplinks;
mod weak_source;
mod weight_sync;
mod writer;

#[cfg(test)]
mod tests;

pub use engine::{Engine, Ports};
pub use groups::Rules;
pub use handover::{
    Command, Ended, FailedGroup, Report, RolloutId, SpanAsk, SpanOutcome, SpanTaken, Status,
    WeakWork,
};
pub use lease_holder::LeaseHolder;
pub use models::Models;
pub use reports::Reporter;
pub use slots::Waiting;
pub use span_book::{SpanBook, SpanLimits};
pub use uplink::Uplink;
pub use uplinks::Uplinks;
pub use weak_source::{WeakSource, WeakSourceSettings};
pub use weight_sync::{WeightSync, decoder};
pub use writer::{Output, Tick, Writer};

use std::time::Duration;

use anyhow::Context;
use member::{Membership, Process};
use store::Store;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Messages to the engine that wait; its senders wait when it is full. No setting: every tick
/// empties it, and what is in it is bounded by `actor.slots`.
const COMMANDS: usize = 256;

/// Reads the models' outlines, joins the run and starts every part; they end with the shutdown.
///
/// # Errors
/// Models that cannot be read or do not fit the settings, or no coordinator.
pub async fn run(process: Process) -> anyhow::Result<()> {
    let models = Models::read(&process.settings)?;
    let membership = process.join(String::new(), String::new()).await?;
    start(&process, membership, models)
}

/// Starts every part in the process' task group.
///
/// # Errors
/// The engine's thread cannot be started.
pub fn start(process: &Process, membership: Membership, models: Models) -> anyhow::Result<()> {
    let Process { settings, tasks, shutdown, .. } = process;
    let limits = &settings.actor;
    let uplink_groups = limits.uplink_groups as usize;
    let (commands, engine_commands) = mpsc::channel(COMMANDS);
    let (weak, weak_work) = mpsc::channel(limits.weak_outbox_messages as usize);
    let (learner, groups) = mpsc::channel(uplink_groups);
    let (coordinator, reports) = mpsc::channel(uplink_groups);
    let coordinator_reports = coordinator.clone();
    let (status, statuses) = watch::channel(Status::default());
    let (wanted, wants) = watch::channel(None);
    let (completed, completions) = mpsc::channel(uplink_groups);

    let writer = Writer::new(models.rules.clone(), limits.slots as usize);
    let ports = Ports { commands: engine_commands, weak, learner, coordinator, status };
    let engine = Engine::new(writer, ports, shutdown.clone(), process.health.clone());
    let runtime = Handle::current();
    tasks
        .spawn_thread("engine", move || engine.run(&runtime))
        .context("cannot start the engine's thread")?;

    let Membership { tie, index, directives } = membership;
    let source = WeakSource::new(
        weak_source_settings(process, index, &models),
        directives.clone(),
        weak_work,
        commands.clone(),
    );
    tasks.spawn("weak source", source.run(shutdown.clone()));
    let uplinks = Uplinks {
        tasks: tasks.clone(),
        channel: process.channel_settings(),
        directives: directives.clone(),
        groups,
        completed,
        reports: coordinator_reports,
        groups_max: uplink_groups,
    };
    tasks.spawn("uplinks", uplinks.run(shutdown.clone()));
    let message_bytes_max = process.channel_settings().message_bytes_max;
    let reporter = Reporter { tie: tie.clone(), reports, message_bytes_max };
    tasks.spawn("reporter", reporter.run(shutdown.clone()));
    let weights = WeightSync {
        coordinator: tie.coordinator.clone(),
        directives,
        engine: commands.clone(),
        wanted,
        config: models.config,
        placement: models.placement,
        bytes_max: settings.limits.weights_bytes,
        files: settings.weights_dir().map(proto::WeightFiles::new),
        store: settings.weights.store.then(|| Store::open(&settings.store)).transpose()?.flatten(),
        readiness: process.readiness.clone(),
    };
    tasks.spawn("weights", weights.run(shutdown.clone()));
    let leases = LeaseHolder {
        tie,
        status: statuses,
        wanted: wants,
        completed: completions,
        engine: commands,
        group_samples: settings.train.samples_per_problem,
        pause: millis(limits.lease_wait_ms),
    };
    tasks.spawn("leases", leases.run(shutdown.clone()));
    Ok(())
}

fn weak_source_settings(process: &Process, index: u32, models: &Models) -> WeakSourceSettings {
    let limits = &process.settings.actor;
    WeakSourceSettings {
        channel: process.channel_settings(),
        limits: SpanLimits {
            deadline: millis(limits.span_deadline_ms),
            retries_max: limits.span_retries_max,
        },
        outbox_messages: limits.weak_outbox_messages as usize,
        actor: process.role.name_of(index),
        index,
        tokenizer: models.rules.task.tokenizer().fingerprint(),
        stops: models.rules.task.stops().to_vec(),
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
