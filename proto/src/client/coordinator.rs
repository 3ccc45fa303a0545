//! A member's side of the coordinator.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use types::{Generation, MemberId, PolicyVersion, Problem, RolloutGroup, WeightManifest};

use super::{call, upload};
use crate::channel::{ChannelSettings, Line};
use crate::convert::{ConvertError, WeightAssembler, WeightError, filed, weight_chunks};
use crate::pulse::{Inspection, Pulse};
use crate::status::RpcError;
use crate::version::same_version;
use crate::wire::coordinator as wire;
use crate::wire::coordinator::coordinator_client::CoordinatorClient as Stub;
use crate::work::{
    Departure, Directive, LeaseAsk, Registration, ReturnedGroup, StepRecord, WorkItem,
};

/// Cheap to clone: clones share one connection.
#[derive(Clone, Debug)]
pub struct CoordinatorClient {
    stub: Stub<Line>,
    timeout: Duration,
}

/// Directives as they change.
#[derive(Debug)]
pub struct DirectiveStream(Streaming<wire::Directive>);

impl DirectiveStream {
    /// `None` when the coordinator closes the stream.
    ///
    /// # Errors
    /// A broken connection.
    pub async fn next(&mut self) -> Result<Option<Directive>, RpcError> {
        let message = self.0.message().await.map_err(|s| RpcError::new("watch", &s))?;
        Ok(message.map(Into::into))
    }
}

impl CoordinatorClient {
    #[must_use]
    pub fn new(channel: Line, settings: &ChannelSettings) -> Self {
        let stub = Stub::new(channel)
            .max_decoding_message_size(settings.message_bytes_max)
            .max_encoding_message_size(settings.message_bytes_max);
        Self { stub, timeout: settings.call_timeout }
    }

    /// Returns the caller's index among the processes of its role.
    pub async fn register(&mut self, registration: Registration) -> Result<u32, RpcError> {
        let request = wire::RegisterRequest::from(registration);
        let reply = call("register", self.timeout, self.stub.register(request)).await?;
        let same = same_version("coordinator", &reply.version);
        same.map(|()| reply.index).map_err(|skew| RpcError::invalid("register", skew))
    }

    pub async fn heartbeat(&mut self, pulse: Pulse) -> Result<(), RpcError> {
        let request = wire::Pulse::from(pulse);
        call("heartbeat", self.timeout, self.stub.heartbeat(request)).await.map(drop)
    }

    pub async fn inspect(&mut self) -> Result<Inspection, RpcError> {
        call("inspect", self.timeout, self.stub.inspect(wire::Empty {})).await.map(Into::into)
    }

    pub async fn watch(&mut self, member: MemberId) -> Result<DirectiveStream, RpcError> {
        let request = wire::WatchRequest { member: member.0 };
        call("watch", self.timeout, self.stub.watch(request)).await.map(DirectiveStream)
    }

    pub async fn lease(&mut self, ask: LeaseAsk) -> Result<Vec<WorkItem>, RpcError> {
        let request = wire::LeaseRequest::from(ask);
        let reply = call("lease", self.timeout, self.stub.lease(request)).await?;
        let items = reply.items.into_iter().map(WorkItem::try_from);
        items.collect::<Result<_, _>>().map_err(|e| RpcError::invalid("lease", e))
    }

    pub async fn return_group(&mut self, group: ReturnedGroup) -> Result<(), RpcError> {
        let request = wire::ReturnRequest::from(group);
        call("return_group", self.timeout, self.stub.return_group(request)).await.map(drop)
    }

    pub async fn report_eval(
        &mut self,
        member: MemberId,
        groups: Vec<RolloutGroup>,
    ) -> Result<(), RpcError> {
        let groups = groups.into_iter().map(Into::into).collect();
        let request = wire::EvalReport { member: member.0, groups };
        call("report_eval", self.timeout, self.stub.report_eval(request)).await.map(drop)
    }

    pub async fn lease_examples(
        &mut self,
        member: MemberId,
        step: u64,
        count: u32,
    ) -> Result<Vec<Problem>, RpcError> {
        let request = wire::ExamplesRequest { member: member.0, step, count };
        let reply = call("lease_examples", self.timeout, self.stub.lease_examples(request)).await?;
        Ok(reply.examples.into_iter().map(Into::into).collect())
    }

    /// Sends one version, of any size: each chunk, and then the answer, has the time of one call.
    pub async fn publish_weights(
        &mut self,
        manifest: WeightManifest,
        bytes: &[u8],
    ) -> Result<(), RpcError> {
        let (sender, receiver) = mpsc::channel(1);
        let answer = self.stub.publish_weights(ReceiverStream::new(receiver));
        let chunks = weight_chunks(manifest, bytes);
        upload("publish_weights", self.timeout, chunks, sender, answer).await.map(drop)
    }

    /// Announces one version that the coordinator finds in a file; `NotFound` where it does not.
    pub async fn publish_filed(&mut self, manifest: WeightManifest) -> Result<(), RpcError> {
        let (sender, receiver) = mpsc::channel(1);
        let answer = self.stub.publish_weights(ReceiverStream::new(receiver));
        let chunk = std::iter::once(filed(manifest));
        upload("publish_weights", self.timeout, chunk, sender, answer).await.map(drop)
    }

    /// What a version is, without its bytes.
    pub async fn weight_manifest(
        &mut self,
        version: PolicyVersion,
    ) -> Result<WeightManifest, RpcError> {
        let name = "fetch_weights";
        let request = wire::FetchRequest { version: version.packed(), manifest_only: true };
        let mut chunks = call(name, self.timeout, self.stub.fetch_weights(request)).await?;
        let first = async { chunks.message().await.map(tonic::Response::new) };
        let kind = call(name, self.timeout, first).await?.and_then(|chunk| chunk.kind);
        match kind {
            Some(wire::weight_chunk::Kind::Manifest(manifest)) => {
                manifest.try_into().map_err(|e: ConvertError| RpcError::invalid(name, e))
            }
            _ => Err(RpcError::invalid(name, WeightError::NoManifest)),
        }
    }

    /// Fetches and verifies one version, of at most `bytes_max` bytes.
    pub async fn fetch_weights(
        &mut self,
        version: PolicyVersion,
        bytes_max: u64,
    ) -> Result<(WeightManifest, Vec<u8>), RpcError> {
        let name = "fetch_weights";
        let request = wire::FetchRequest { version: version.packed(), manifest_only: false };
        let mut chunks = call(name, self.timeout, self.stub.fetch_weights(request)).await?;
        let mut assembler = WeightAssembler::new(bytes_max);
        loop {
            let next = async { chunks.message().await.map(tonic::Response::new) };
            match call(name, self.timeout, next).await? {
                Some(chunk) => assembler.push(chunk).map_err(|e| RpcError::invalid(name, e))?,
                None => return assembler.finish().map_err(|e| RpcError::invalid(name, e)),
            }
        }
    }

    pub async fn commit_step(&mut self, record: StepRecord) -> Result<(), RpcError> {
        let request = wire::StepRecord::from(record);
        call("commit_step", self.timeout, self.stub.commit_step(request)).await.map(drop)
    }

    /// Asks for another generation after this one.
    pub async fn reform(
        &mut self,
        member: MemberId,
        generation: Generation,
        reason: String,
    ) -> Result<(), RpcError> {
        let request = wire::ReformRequest { member: member.0, generation: generation.0, reason };
        call("reform", self.timeout, self.stub.reform(request)).await.map(drop)
    }

    /// The last call of a member.
    pub async fn leave(&mut self, member: MemberId, how: Departure) -> Result<(), RpcError> {
        let how = wire::Departure::from(how).into();
        let request = wire::LeaveRequest { member: member.0, how };
        call("leave", self.timeout, self.stub.leave(request)).await.map(drop)
    }
}
