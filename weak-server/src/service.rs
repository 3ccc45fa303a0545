//! The gRPC side of the weak server: checks the hello, converts on receipt, passes on. It decides
//! nothing about spans.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use proto::wire::weak as wire;
use proto::wire::weak::weak_server::{Weak, WeakServer};
use proto::{ErrorCode, SpanReply, WeakMessage};
use runtime::{Shutdown, TaskGroup, within};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use types::{Hash, TokenId};

use crate::engine::{Command, EngineHandle, Outbox, Refusal, Stopped};
use crate::metrics::REFUSED_STREAMS;
use crate::sessions::StreamId;

/// What every stream needs to know.
#[derive(Clone)]
pub struct ServiceSettings {
    /// The weak tokenizer's fingerprint.
    pub tokenizer: Hash,
    /// What ends a text for the weak model itself.
    pub ends: Vec<TokenId>,
    /// Open at once.
    pub streams: usize,
    pub reply_messages: usize,
    /// For the hello to arrive.
    pub hello_timeout: Duration,
}

pub struct WeakService {
    engine: EngineHandle,
    tasks: TaskGroup,
    settings: ServiceSettings,
    next_stream: AtomicU64,
    /// One for every stream that may still be opened.
    room: Arc<Semaphore>,
}

impl WeakService {
    /// As a gRPC service that takes and sends messages of at most `message_bytes`.
    #[must_use]
    pub fn into_server(self, message_bytes: usize) -> WeakServer<Self> {
        WeakServer::new(self)
            .max_decoding_message_size(message_bytes)
            .max_encoding_message_size(message_bytes)
    }

    #[must_use]
    pub fn new(engine: EngineHandle, tasks: TaskGroup, settings: ServiceSettings) -> Self {
        let room = Arc::new(Semaphore::new(settings.streams));
        Self { engine, tasks, settings, next_stream: AtomicU64::new(0), room }
    }

    fn check_hello(&self, message: WeakMessage) -> Result<String, Status> {
        let WeakMessage::Hello { actor, tokenizer, stops } = message else {
            return Err(ErrorCode::Invalid.status("the first message of a stream must be a hello"));
        };
        if tokenizer != self.settings.tokenizer {
            return Err(ErrorCode::Invalid.status(format!(
                "the tokenizer of {actor} is not the weak model's, so that token ids do not mean \
                 the same text: give strong.model and weak.model of one tokenizer, and both \
                 processes the same settings"
            )));
        }
        if let Some(end) = self.settings.ends.iter().find(|end| !stops.contains(end)) {
            return Err(ErrorCode::Invalid.status(format!(
                "token {end} ends a text for the weak model but not for {actor}, which would \
                 write on: give it a weak.model that it can read, the one that is served here"
            )));
        }
        Ok(actor)
    }
}

#[tonic::async_trait]
impl Weak for WeakService {
    type ConverseStream = Replies;

    async fn converse(
        &self,
        request: Request<Streaming<wire::Request>>,
    ) -> Result<Response<Replies>, Status> {
        let mut inbound = request.into_inner();
        let limit = self.settings.hello_timeout;
        let first = tokio::select! {
            () = self.tasks.shutdown().wait() => return Err(stopping()),
            first = within("the hello", limit, inbound.message()) => first,
        };
        let first = first.map_err(|late| ErrorCode::Deadline.status(late.to_string()))??;
        let first = first.ok_or_else(|| ErrorCode::Invalid.status("a stream without a hello"))?;
        let hello = convert(first).and_then(|hello| self.check_hello(hello));
        let actor = hello.inspect_err(|status| {
            tracing::warn!(reason = status.message(), "refusing a stream");
            REFUSED_STREAMS.increment(1, &[("reason", "hello")]);
        })?;

        let place = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            REFUSED_STREAMS.increment(1, &[("reason", "full")]);
            ErrorCode::Overloaded.status(format!(
                "{} streams are open already: raise weak_server.streams",
                self.settings.streams
            ))
        })?;
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (replies, messages) = mpsc::channel(self.settings.reply_messages.max(1));
        let (open, closed) = oneshot::channel();
        let refusal: Refusal = Arc::new(OnceLock::new());
        let outbox = Outbox { replies, refusal: Arc::clone(&refusal), open };
        let engine = self.engine.clone();
        let opened = engine.send(Command::Open { stream, outbox }).await;
        opened.map_err(|Stopped| stopping())?;
        tracing::info!(%actor, stream = stream.0, "stream opened");

        let stop = self.tasks.shutdown().clone();
        let reader = Reader { stream, engine, refusal: Arc::clone(&refusal) };
        self.tasks.spawn(format!("weak-stream-{}", stream.0), async move {
            let _until_the_stream_ends = place;
            reader.run(inbound, closed, stop).await;
            tracing::info!(%actor, stream = stream.0, "stream closed");
            Ok(())
        });
        Ok(Response::new(Replies { messages, refusal, over: false }))
    }
}

/// Reads one stream until either side ends it.
struct Reader {
    stream: StreamId,
    engine: EngineHandle,
    refusal: Refusal,
}

impl Reader {
    async fn run(
        &self,
        mut inbound: Streaming<wire::Request>,
        mut closed: oneshot::Receiver<std::convert::Infallible>,
        stop: Shutdown,
    ) {
        let stop = stop.wait();
        tokio::pin!(stop);
        loop {
            let message = tokio::select! {
                () = &mut stop => break,
                _ = &mut closed => break,
                message = inbound.message() => message,
            };
            let command = match message.and_then(|m| m.map(convert).transpose()) {
                Ok(None) => break,
                Ok(Some(message)) => self.command(message),
                Err(status) => Err(status),
            };
            let sent = match command {
                Ok(command) => self.engine.send(command).await.is_ok(),
                Err(status) => {
                    self.refuse(&status);
                    false
                }
            };
            if !sent {
                break;
            }
        }
        // An engine that has ended has forgotten the stream already.
        let _ = self.engine.send(Command::Gone { stream: self.stream }).await;
    }

    fn command(&self, message: WeakMessage) -> Result<Command, Status> {
        let stream = self.stream;
        match message {
            WeakMessage::Spans(requests) => {
                Ok(Command::Spans { stream, requests, received: Instant::now() })
            }
            WeakMessage::Close(sessions) => Ok(Command::Close { stream, sessions }),
            WeakMessage::Hello { .. } => {
                Err(ErrorCode::Invalid.status("a second hello on one stream"))
            }
        }
    }

    fn refuse(&self, status: &Status) {
        let code = ErrorCode::of(status);
        // A connection that breaks is no fault of the message.
        if code == ErrorCode::Invalid {
            let reason = status.message();
            tracing::warn!(stream = self.stream.0, reason, "closing a stream");
            REFUSED_STREAMS.increment(1, &[("reason", "malformed")]);
        }
        let _ = self.refusal.set((code, status.message().to_owned()));
    }
}

fn stopping() -> Status {
    ErrorCode::Unavailable.status(Stopped.to_string())
}

fn convert(message: wire::Request) -> Result<WeakMessage, Status> {
    WeakMessage::try_from(message).map_err(|e| ErrorCode::Invalid.status(e.to_string()))
}

/// Replies until the engine drops its end; then the reason, if there is one.
pub struct Replies {
    messages: mpsc::Receiver<Vec<SpanReply>>,
    refusal: Refusal,
    over: bool,
}

impl Stream for Replies {
    type Item = Result<wire::Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(replies) = ready!(self.messages.poll_recv(cx)) {
            let replies = replies.into_iter().map(Into::into).collect();
            return Poll::Ready(Some(Ok(wire::Reply { replies })));
        }
        self.over = true;
        let refusal = self.refusal.get();
        Poll::Ready(refusal.map(|(code, reason)| Err(code.status(reason.clone()))))
    }
}
