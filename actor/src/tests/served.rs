//! A weak server over real gRPC whose faults are scripted, one per message of spans.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::wire::weak as wire;
use proto::wire::weak::weak_server::{Weak, WeakServer};
use proto::{Open, SpanFailure, SpanFault, SpanReply, SpanRequest, SpanWritten, WeakMessage};
use runtime::TaskGroup;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::{SessionId, TokenId};

use super::weak::NaiveWeak;

/// What happens to one message of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Serve,
    /// The stream breaks before an answer.
    Break,
    /// Everything cached is forgotten first, as by eviction.
    Evict,
    /// Written, but the answer gets lost.
    Silence,
    Answer(SpanFault),
}

#[derive(Clone)]
pub(super) struct ServedWeak {
    weak: NaiveWeak,
    script: Arc<Mutex<VecDeque<Script>>>,
    seen: Arc<Mutex<Seen>>,
}

/// For assertions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) streams: u32,
    pub(super) requests: u32,
    pub(super) opened: u32,
    pub(super) closed: u32,
}

type Sessions = BTreeMap<SessionId, (Open, Vec<TokenId>)>;

impl ServedWeak {
    /// Serves on a free port until the group's shutdown; the address comes with it.
    pub(super) async fn start(
        weak: NaiveWeak,
        script: &[Script],
        tasks: &TaskGroup,
    ) -> (Self, String) {
        let script = Arc::new(Mutex::new(script.iter().copied().collect()));
        let served = Self { weak, script, seen: Arc::default() };
        let listener = super::listen().await;
        let address = listener.address().to_string();
        let (service, stop) = (WeakServer::new(served.clone()), tasks.shutdown().wait());
        tasks.spawn("weak server", async move {
            let (mut server, incoming) = proto::accept(listener);
            let server = server.add_service(service);
            tokio::select! {
                () = stop => Ok(()),
                ended = server.serve_with_incoming(incoming) => Ok(ended?),
            }
        });
        (served, address)
    }

    pub(super) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap()
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
    }

    fn answer(
        &self,
        sessions: &mut Sessions,
        message: WeakMessage,
    ) -> Option<Result<wire::Reply, Status>> {
        let requests = match message {
            WeakMessage::Hello { .. } => return None,
            WeakMessage::Close(closed) => {
                self.note(|seen| seen.closed += closed.len() as u32);
                closed.iter().for_each(|session| drop(sessions.remove(session)));
                return None;
            }
            WeakMessage::Spans(requests) => requests,
        };
        let script = self.script.lock().unwrap().pop_front().unwrap_or(Script::Serve);
        self.note(|seen| seen.requests += requests.len() as u32);
        match script {
            Script::Break => return Some(Err(Status::unavailable("scripted"))),
            Script::Evict => sessions.clear(),
            Script::Serve | Script::Silence | Script::Answer(_) => {}
        }
        let replies = requests.into_iter().map(|request| {
            let session = request.session;
            let result = match script {
                Script::Answer(fault) => Err(failure(fault)),
                _ => self.write(sessions, request).map_err(failure),
            };
            wire::SpanReply::from(SpanReply { session, result })
        });
        let replies = replies.collect();
        (script != Script::Silence).then_some(Ok(wire::Reply { replies }))
    }

    fn write(
        &self,
        sessions: &mut Sessions,
        request: SpanRequest,
    ) -> Result<SpanWritten, SpanFault> {
        if let Some(open) = request.open {
            self.note(|seen| seen.opened += 1);
            sessions.insert(request.session, (open, Vec::new()));
        }
        let session = sessions.get_mut(&request.session);
        let (open, response) = session.ok_or(SpanFault::UnknownSession)?;
        let known = response.len() as u32;
        let prefix_hash = SpanRequest::hash_prefix(&open.prompt, response);
        if request.from != known || request.prefix_hash != prefix_hash {
            return Err(SpanFault::Prefix);
        }
        response.extend(&request.append);
        let written = self.weak.write(open, response, known);
        response.extend(&written.tokens);
        Ok(written)
    }
}

fn failure(fault: SpanFault) -> SpanFailure {
    SpanFailure { fault, reason: "scripted".to_owned() }
}

#[tonic::async_trait]
impl Weak for ServedWeak {
    type ConverseStream = Pin<Box<dyn Stream<Item = Result<wire::Reply, Status>> + Send>>;

    async fn converse(
        &self,
        request: Request<Streaming<wire::Request>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        self.note(|seen| seen.streams += 1);
        let (served, mut sessions) = (self.clone(), Sessions::new());
        let replies = request.into_inner().filter_map(move |message| {
            let message = WeakMessage::try_from(message.ok()?).unwrap();
            served.answer(&mut sessions, message)
        });
        Ok(Response::new(Box::pin(replies)))
    }
}
