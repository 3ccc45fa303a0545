//! The coordinator's gRPC service: wire forms in, domain calls on the hub, wire forms out.

use std::pin::Pin;
use std::time::Duration;

use proto::wire::coordinator as wire;
use proto::wire::coordinator::coordinator_server::{Coordinator, CoordinatorServer};
use proto::{
    Departure, ErrorCode, LeaseAsk, Pulse, Registration, ReturnReason, ReturnedGroup, StepRecord,
    WeightAssembler, WeightError, weight_chunks,
};
use runtime::off_workers;
use settings::{MESSAGE_BYTES_MIN, Settings};
use tokio_stream::wrappers::{IntervalStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::{Generation, MemberId, PolicyVersion, RolloutGroup};

use crate::hub::{Hub, PublishError};
use crate::journal::Ticket;
use crate::membership::{MemberError, Watch};
use crate::metrics::count_rpc_error;
use crate::state::StateError;
use crate::weight_store::WeightStoreError;

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

// A chunk with its frame fits into every message that the settings allow.
const _: () = assert!(2 * proto::CHUNK_BYTES as u64 <= MESSAGE_BYTES_MIN);

/// Bounds of the service.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    pub keepalive: Duration,
    pub message_bytes_max: usize,
    pub weights_bytes_max: u64,
}

impl ServiceLimits {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let millis = |n: u32| Duration::from_millis(u64::from(n));
        Self {
            keepalive: millis(settings.coordinator.keepalive_ms),
            message_bytes_max: usize::try_from(settings.limits.message_bytes).unwrap_or(usize::MAX),
            weights_bytes_max: settings.limits.weights_bytes,
        }
    }
}

/// The service over one hub.
#[must_use]
pub fn service(hub: Hub, limits: ServiceLimits) -> CoordinatorServer<impl Coordinator> {
    CoordinatorServer::new(Service { hub, limits })
        .max_decoding_message_size(limits.message_bytes_max)
        .max_encoding_message_size(limits.message_bytes_max)
}

struct Service {
    hub: Hub,
    limits: ServiceLimits,
}

impl Service {
    /// Nobody is answered before what the answer rests on is on disk.
    async fn durable(&self, rpc: &'static str, ticket: Option<Ticket>) -> Result<(), Status> {
        let Some(ticket) = ticket else { return Ok(()) };
        ticket.durable().await.map_err(|error| {
            let fault = error.to_string();
            self.hub.change(|state| state.fail(fault.clone()));
            answer(rpc, ErrorCode::Internal, fault)
        })
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Answer<wire::RegisterReply> {
        const RPC: &str = "register";
        let registration = Registration::try_from(request.into_inner()).map_err(invalid(RPC))?;
        let (role, member) = (registration.role, registration.member);
        let index = self.hub.change(|state| state.register(registration));
        let index = index.map_err(|error| refuse(RPC, &error))?;
        tracing::info!(name = role.name_of(index), %member, "registered");
        Ok(Response::new(wire::RegisterReply { version: proto::version(), index }))
    }

    async fn heartbeat(&self, request: Request<wire::Pulse>) -> Answer<wire::Empty> {
        let (pulse, now) = (Pulse::from(request.into_inner()), self.hub.now());
        let known = self.hub.with(|state| state.heard(pulse, now));
        known.map(|()| Response::new(wire::Empty {})).map_err(|error| refuse("heartbeat", &error))
    }

    async fn inspect(&self, _: Request<wire::Empty>) -> Answer<wire::Inspection> {
        let now = self.hub.now();
        let inspection = self.hub.with(|state| state.inspection(now));
        Ok(Response::new(inspection.into()))
    }

    type WatchStream = BoxStream<wire::Directive>;

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        let member = MemberId(request.into_inner().member);
        let watch = self.hub.with(|state| state.watched(member));
        let watch = watch.map_err(|error| refuse("watch", &error))?;
        let presence = Presence { hub: self.hub.clone(), watch };
        let directives = self.hub.directives();
        let latest = directives.clone();
        let repeats = IntervalStream::new(tokio::time::interval(self.limits.keepalive))
            .map(move |_| latest.borrow().clone());
        // Ranks may have formed without it: one that has left must not take them for its own.
        let stream = WatchStream::new(directives)
            .merge(repeats)
            .take_while(move |_| presence.lasts())
            .map(|directive| Ok(wire::Directive::from(directive)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn lease(&self, request: Request<wire::LeaseRequest>) -> Answer<wire::LeaseReply> {
        let ask = LeaseAsk::from(request.into_inner());
        if !ask.completed.is_empty() {
            let completed = self.hub.change(|state| state.complete(ask.member, &ask.completed));
            completed.map_err(|error| refuse("lease", &error))?;
        }
        let now = self.hub.now();
        let (items, ticket) = self.hub.with_ticket(|state| state.lease(&ask, now));
        let items = items.map_err(|error| refuse("lease", &error))?;
        self.durable("lease", ticket).await?;
        let items = items.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::LeaseReply { items }))
    }

    async fn return_group(&self, request: Request<wire::ReturnRequest>) -> Answer<wire::Empty> {
        const RPC: &str = "return_group";
        let returned = ReturnedGroup::try_from(request.into_inner()).map_err(invalid(RPC))?;
        let (group, reason) = (returned.group, returned.reason.name());
        match returned.reason {
            ReturnReason::Failed | ReturnReason::Impossible | ReturnReason::Refused => {
                tracing::warn!(%group, reason, detail = returned.detail, "group returned");
            }
            ReturnReason::Stale | ReturnReason::Replaced => {
                tracing::debug!(%group, reason, detail = returned.detail, "group returned");
            }
        }
        let done = self.hub.change(|state| state.return_group(&returned));
        done.map(|()| Response::new(wire::Empty {})).map_err(|error| refuse(RPC, &error))
    }

    async fn report_eval(&self, request: Request<wire::EvalReport>) -> Answer<wire::Empty> {
        const RPC: &str = "report_eval";
        let report = request.into_inner();
        let member = MemberId(report.member);
        let groups = report.groups.into_iter().map(RolloutGroup::try_from);
        let groups: Vec<_> = groups.collect::<Result<_, _>>().map_err(invalid(RPC))?;
        let (done, ticket) =
            self.hub.change_with_ticket(|state| state.report_eval(member, &groups));
        self.durable(RPC, ticket).await?;
        done.map(|()| Response::new(wire::Empty {})).map_err(|error| refuse(RPC, &error))
    }

    async fn lease_examples(
        &self,
        request: Request<wire::ExamplesRequest>,
    ) -> Answer<wire::ExamplesReply> {
        let wire::ExamplesRequest { member, step, count } = request.into_inner();
        let examples = self.hub.with(|state| state.examples(MemberId(member), step, count));
        let examples = examples.map_err(|error| refuse("lease_examples", &error))?;
        let examples = examples.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::ExamplesReply { examples }))
    }

    async fn publish_weights(
        &self,
        request: Request<Streaming<wire::WeightChunk>>,
    ) -> Answer<wire::Empty> {
        const RPC: &str = "publish_weights";
        let mut chunks = request.into_inner();
        let mut assembler =
            WeightAssembler::new(self.limits.weights_bytes_max).with_files(self.hub.weight_files());
        while let Some(chunk) = chunks.message().await? {
            assembler.push(chunk).map_err(invalid(RPC))?;
        }
        let hub = self.hub.clone();
        let published = off_workers(move || {
            let (manifest, bytes) = assembler.finish().map_err(|error| match error {
                WeightError::NoFile { .. } => answer(RPC, ErrorCode::NotFound, error.to_string()),
                error => answer(RPC, ErrorCode::Invalid, error.to_string()),
            })?;
            hub.publish(manifest, bytes).map_err(|error| match error {
                PublishError::State(error) => refuse(RPC, &error),
                error => answer(RPC, ErrorCode::Invalid, error.to_string()),
            })
        });
        self.durable(RPC, published.await?).await?;
        Ok(Response::new(wire::Empty {}))
    }

    type FetchWeightsStream = BoxStream<wire::WeightChunk>;

    async fn fetch_weights(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Answer<Self::FetchWeightsStream> {
        let wire::FetchRequest { version, manifest_only } = request.into_inner();
        let version = PolicyVersion::unpack(version);
        let stored = self.hub.weights(version).map_err(|error: WeightStoreError| {
            count_rpc_error("fetch_weights", ErrorCode::NotFound);
            ErrorCode::NotFound.status(error.to_string())
        })?;
        let messages = if manifest_only { 1 } else { usize::MAX };
        let chunks = weight_chunks(stored.manifest.clone(), stored).take(messages).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn commit_step(&self, request: Request<wire::StepRecord>) -> Answer<wire::Empty> {
        const RPC: &str = "commit_step";
        let record = StepRecord::try_from(request.into_inner()).map_err(invalid(RPC))?;
        let ticket = self.hub.commit(&record).map_err(|error| refuse(RPC, &error))?;
        self.durable(RPC, ticket).await?;
        Ok(Response::new(wire::Empty {}))
    }

    async fn reform(&self, request: Request<wire::ReformRequest>) -> Answer<wire::Empty> {
        let wire::ReformRequest { member, generation, reason } = request.into_inner();
        tracing::warn!(member, generation, reason, "the learner's ranks are to form anew");
        let (member, generation) = (MemberId(member), Generation(generation));
        let done = self.hub.change(|state| state.reform(member, generation));
        done.map(|()| Response::new(wire::Empty {})).map_err(|error| refuse("reform", &error))
    }

    async fn leave(&self, request: Request<wire::LeaveRequest>) -> Answer<wire::Empty> {
        const RPC: &str = "leave";
        let wire::LeaveRequest { member, how } = request.into_inner();
        let how = Departure::from_wire(how).map_err(invalid(RPC))?;
        let now = self.hub.now();
        let left = self.hub.change(|state| state.leave(MemberId(member), how, now));
        let name = left.map_err(|error| refuse(RPC, &error))?;
        tracing::info!(name, how = how.name(), "left");
        Ok(Response::new(wire::Empty {}))
    }
}

/// A member is present while its watch lasts.
struct Presence {
    hub: Hub,
    watch: Watch,
}

impl Presence {
    fn lasts(&self) -> bool {
        self.hub.with(|state| state.members().is_watched_by(self.watch))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let now = self.hub.now();
        self.hub.change(|state| state.unwatched(self.watch, now));
        tracing::info!(member = %self.watch.member, "watch ended");
    }
}

fn invalid<E: std::fmt::Display>(rpc: &'static str) -> impl Fn(E) -> Status {
    move |error| answer(rpc, ErrorCode::Invalid, error.to_string())
}

fn refuse(rpc: &'static str, error: &StateError) -> Status {
    let code = match error {
        StateError::Member(MemberError::Unknown(_)) => ErrorCode::UnknownMember,
        StateError::Generation { .. } | StateError::Version { .. } => ErrorCode::Superseded,
        _ => ErrorCode::Invalid,
    };
    answer(rpc, code, error.to_string())
}

fn answer(rpc: &'static str, code: ErrorCode, message: String) -> Status {
    tracing::warn!(rpc, code = code.name(), message, "call refused");
    count_rpc_error(rpc, code);
    code.status(message)
}

#[cfg(test)]
mod tests;
