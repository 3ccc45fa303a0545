//! The weak server: continues the rollouts of all actors with a frozen model, in one batch, over
//! one stream per actor. It grades nothing, trains nothing and keeps no rollout.

pub mod batcher;
pub mod engine;
#[cfg(test)]
mod fixtures;
mod job;
pub mod metrics;
mod pace;
pub mod service;
pub mod sessions;
pub mod text;
mod weak_model;

pub use job::{Computed, SpanStop};
pub use weak_model::WeakModel;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use member::{Process, ProgramMetrics};
use model::RaggedEngine;
use runtime::TaskGroup;
use security::Listener;
use settings::Settings;
use telemetry::Health;

use crate::batcher::{BatchLimits, Batcher};
use crate::service::{ServiceSettings, WeakService};
use crate::text::Rulebook;

/// What it measures and waits for.
pub const PROGRAM: ProgramMetrics =
    ProgramMetrics { metrics: metrics::ALL, buckets: &[], readiness: &["model", "coordinator"] };

/// The whole program between its start and the directed stop.
///
/// # Errors
/// A model that does not load, a port in use, a coordinator that does not answer.
pub async fn run(process: Process) -> anyhow::Result<()> {
    let settings = Arc::clone(&process.settings);
    let model = WeakModel::load(&settings)?;
    process.readiness.set("model");
    let listener = process.listen(&settings.weak_server.listen, "weak_server.listen").await?;
    let address = listener.address();
    start(&settings, model, listener, &process.tasks, process.health.clone())?;
    tracing::info!(%address, model = settings.weak_model(), "serving spans");
    let _membership = process.join(address.to_string(), String::new()).await?;
    process.shutdown.wait().await;
    Ok(())
}

/// Starts the engine and the gRPC server on `listener`; both end with the shutdown of `tasks`.
/// Must be called inside a tokio runtime.
///
/// # Errors
/// A session that the model's positions do not cover, or no thread.
pub fn start(
    settings: &Settings,
    model: WeakModel,
    listener: Listener,
    tasks: &TaskGroup,
    health: Health,
) -> anyhow::Result<()> {
    let bounds = &settings.weak_server;
    let (rows, capacity) = (bounds.sessions as usize, bounds.session_tokens as usize);
    let WeakModel { decoder, tokenizer } = model;
    let (vocab, ends) = (decoder.config().ids, decoder.config().stops.clone());
    let cache = RaggedEngine::new(decoder, rows, capacity)
        .context("weak_server.sessions and weak_server.session_tokens")?;
    let queue = bounds.queue_requests as usize;
    let limits = BatchLimits {
        sessions: rows,
        batch_rows: bounds.batch_rows as usize,
        batch_tokens: bounds.batch_tokens as usize,
        queue_requests: queue,
    };
    let book = Rulebook {
        boundaries: Arc::new(task::boundaries(settings, &tokenizer)?),
        vocab,
        session_tokens: capacity,
    };
    let engine = engine::start(tasks, cache, Batcher::new(limits, book), queue, health)?;

    let service = ServiceSettings {
        tokenizer: tokenizer.fingerprint(),
        ends,
        streams: bounds.streams as usize,
        reply_messages: bounds.reply_messages as usize,
        hello_timeout: Duration::from_millis(u64::from(settings.limits.call_timeout_ms)),
    };
    let message_bytes = usize::try_from(settings.limits.message_bytes).unwrap_or(usize::MAX);
    let service = WeakService::new(engine, tasks.clone(), service).into_server(message_bytes);
    let stop = tasks.shutdown().wait();
    tasks.spawn("weak-grpc", async move {
        let (mut server, incoming) = proto::accept(listener);
        let server = server.add_service(service);
        server.serve_with_incoming_shutdown(incoming, stop).await.context("the gRPC server")
    });
    Ok(())
}

#[cfg(test)]
mod tests;
