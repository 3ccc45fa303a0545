//! The thread that owns the weak model: it takes what is queued, runs one forward, sends what is
//! due. What a forward consists of is the batcher's business, gRPC is `service`'s.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use model::{RaggedEngine, RowInput, StepOutput};
use proto::{ErrorCode, SpanReply, SpanRequest};
use runtime::{Shutdown, TaskGroup};
use telemetry::Health;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;
use types::SessionId;

use crate::batcher::{Batcher, RowStep};
use crate::metrics::{Meters, REFUSED_STREAMS, STREAMS};
use crate::sessions::StreamId;

/// An idle engine says that often that it is alive.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// What streams ask of the engine.
pub enum Command {
    Open { stream: StreamId, outbox: Outbox },
    Spans { stream: StreamId, requests: Vec<SpanRequest>, received: Instant },
    Close { stream: StreamId, sessions: Vec<SessionId> },
    Gone { stream: StreamId },
}

/// Why a stream was closed by the server; set at most once.
pub type Refusal = Arc<OnceLock<(ErrorCode, String)>>;

/// The engine's end of one stream. Dropping it ends the stream.
pub struct Outbox {
    pub replies: mpsc::Sender<Vec<SpanReply>>,
    pub refusal: Refusal,
    /// Tells the reading side, by being dropped, that the stream is over.
    pub open: oneshot::Sender<Infallible>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle(mpsc::Sender<Command>);

/// The engine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the weak server is stopping")]
pub struct Stopped;

impl EngineHandle {
    /// Waits for room in the queue, which every tick empties.
    ///
    /// # Errors
    /// The engine has ended.
    pub async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.0.send(command).await.map_err(|_| Stopped)
    }
}

/// Starts the thread; `queue` bounds the commands that wait. Must be called inside a tokio runtime.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    tasks: &TaskGroup,
    engine: RaggedEngine,
    batcher: Batcher,
    queue: usize,
    health: Health,
) -> anyhow::Result<EngineHandle> {
    let (sender, commands) = mpsc::channel(queue.max(1));
    let shutdown = tasks.shutdown().clone();
    let runtime = Handle::current();
    let body = move || {
        let (meters, streams) = (Meters::new(), BTreeMap::new());
        Worker { commands, batcher, engine, streams, shutdown, health, meters }.run(&runtime)
    };
    tasks.spawn_thread("weak-engine", body).context("cannot start the engine's thread")?;
    Ok(EngineHandle(sender))
}

struct Worker {
    commands: mpsc::Receiver<Command>,
    batcher: Batcher,
    engine: RaggedEngine,
    streams: BTreeMap<StreamId, Outbox>,
    shutdown: Shutdown,
    health: Health,
    meters: Meters,
}

impl Worker {
    fn run(mut self, runtime: &Handle) -> anyhow::Result<()> {
        while self.take_commands(runtime) {
            self.tick()?;
            self.deliver();
            self.meters.totals(&self.batcher);
            self.health.beat();
        }
        for outbox in self.streams.values() {
            let _ = outbox.refusal.set((ErrorCode::Unavailable, Stopped.to_string()));
        }
        Ok(())
    }

    /// Takes everything that is queued; waits while there is nothing to do. False: stop.
    fn take_commands(&mut self, runtime: &Handle) -> bool {
        if self.batcher.is_idle() {
            let (commands, stop) = (&mut self.commands, self.shutdown.wait());
            let first = runtime.block_on(async {
                tokio::select! {
                    () = stop => None,
                    first = tokio::time::timeout(IDLE_BEAT, commands.recv()) => Some(first),
                }
            });
            match first {
                Some(Ok(Some(command))) => self.apply(command),
                Some(Err(_)) => {}
                Some(Ok(None)) | None => return false,
            }
        }
        for _ in 0..self.commands.max_capacity() {
            let Ok(command) = self.commands.try_recv() else { break };
            self.apply(command);
        }
        !self.shutdown.requested()
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Open { stream, outbox } => {
                self.streams.insert(stream, outbox);
                STREAMS.set(self.streams.len() as f64, &[]);
            }
            Command::Spans { stream, requests, received } if self.streams.contains_key(&stream) => {
                for request in requests {
                    self.batcher.enqueue(stream, request, received);
                }
            }
            // Of a stream that was closed for not reading.
            Command::Spans { .. } => {}
            Command::Close { stream, sessions } => self.batcher.close(stream, &sessions),
            Command::Gone { stream } => self.forget(stream),
        }
    }

    fn forget(&mut self, stream: StreamId) {
        self.batcher.close_stream(stream);
        self.streams.remove(&stream);
        STREAMS.set(self.streams.len() as f64, &[]);
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let steps = self.batcher.form(start);
        if steps.is_empty() {
            return Ok(());
        }
        let failed = "the weak model's forward";
        let output = forward(&mut self.engine, &steps).context(failed)?;
        let drawn = output.draw(&self.batcher.picks()).context(failed)?;
        let now = Instant::now();
        self.batcher.absorb(drawn, now).context(
            "the weak model computes no numbers: restore the directory that weak.model names",
        )?;
        self.meters.forward(steps.len(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// All replies of one tick to one stream go in one message.
    fn deliver(&mut self) {
        let mut messages: BTreeMap<StreamId, Vec<SpanReply>> = BTreeMap::new();
        for answer in self.batcher.take_answers() {
            self.meters.answer(&answer);
            messages.entry(answer.stream).or_default().push(answer.reply);
        }
        for (stream, replies) in messages {
            let Some(outbox) = self.streams.get(&stream) else { continue };
            match outbox.replies.try_send(replies) {
                Ok(()) => continue,
                Err(TrySendError::Full(_)) => {
                    let reason = format!(
                        "{} messages of replies were not read: read them, or raise \
                         weak_server.reply_messages",
                        outbox.replies.max_capacity()
                    );
                    tracing::warn!(stream = stream.0, %reason, "closing a stream");
                    REFUSED_STREAMS.increment(1, &[("reason", "unread")]);
                    let _ = outbox.refusal.set((ErrorCode::Overloaded, reason));
                }
                Err(TrySendError::Closed(_)) => {}
            }
            self.forget(stream);
        }
    }
}

/// Runs the steps; what is wanted comes in their order.
///
/// # Errors
/// A cache that does not hold what the steps build on, or a failing device.
pub fn forward(engine: &mut RaggedEngine, steps: &[RowStep]) -> anyhow::Result<StepOutput> {
    for RowStep { row, keep, .. } in steps {
        engine.truncate(*row, *keep)?;
        let held = engine.len(*row);
        ensure!(held == *keep, "row {row} holds {held} tokens where {keep} were computed");
    }
    let inputs: Vec<RowInput<'_>> = steps
        .iter()
        .map(|step| RowInput { row: step.row, tokens: &step.tokens, want: step.want })
        .collect();
    Ok(engine.step(&inputs)?)
}
