//! A coordinator over real gRPC that serves weights from a script and answers reports with one.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::wire::coordinator as wire;
use proto::wire::coordinator::coordinator_server::{Coordinator, CoordinatorServer};
use proto::{ChannelSettings, CoordinatorClient, ErrorCode, weight_chunks};
use runtime::TaskGroup;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::{GroupId, PolicyVersion, WeightManifest};

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What happens to one transfer of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Whole,
    /// It ends after the manifest.
    Cut,
    /// It breaks after the manifest.
    Broken,
    /// The bytes are not the manifest's.
    Torn,
    /// One bit of the byte at this thousandth of the bytes is another.
    Flipped(usize),
    /// Only so many thousandths of the bytes come.
    Truncated(usize),
}

#[derive(Clone, Default)]
pub(super) struct ServedCoordinator(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    weights: BTreeMap<PolicyVersion, (WeightManifest, Vec<u8>)>,
    transfers: VecDeque<Transfer>,
    /// Answers to reports; without any, they are taken.
    refusals: VecDeque<ErrorCode>,
    fetched: Vec<PolicyVersion>,
    evaluated: Vec<Vec<GroupId>>,
    returned: Vec<(GroupId, String)>,
}

impl ServedCoordinator {
    pub(super) async fn start(&self, tasks: &TaskGroup) -> CoordinatorClient {
        let listener = super::listen().await;
        let address = listener.address().to_string();
        let (service, stop) = (CoordinatorServer::new(self.clone()), tasks.shutdown().wait());
        tasks.spawn("coordinator", async move {
            let (mut server, incoming) = proto::accept(listener);
            let server = server.add_service(service);
            tokio::select! {
                () = stop => Ok(()),
                ended = server.serve_with_incoming(incoming) => Ok(ended?),
            }
        });
        let settings = ChannelSettings::default();
        let channel = proto::connect(&address, &settings).await.unwrap();
        CoordinatorClient::new(channel, &settings)
    }

    pub(super) fn keep(&self, manifest: WeightManifest, bytes: Vec<u8>) {
        self.with(|inner| inner.weights.insert(manifest.version, (manifest, bytes)));
    }

    pub(super) fn transfers(&self, transfers: &[Transfer]) {
        self.with(|inner| inner.transfers.extend(transfers));
    }

    pub(super) fn refuse(&self, codes: &[ErrorCode]) {
        self.with(|inner| inner.refusals.extend(codes));
    }

    pub(super) fn fetched(&self) -> Vec<PolicyVersion> {
        self.with(|inner| inner.fetched.clone())
    }

    pub(super) fn evaluated(&self) -> Vec<Vec<GroupId>> {
        self.with(|inner| inner.evaluated.clone())
    }

    pub(super) fn returned(&self) -> Vec<(GroupId, String)> {
        self.with(|inner| inner.returned.clone())
    }

    fn with<T>(&self, body: impl FnOnce(&mut Inner) -> T) -> T {
        body(&mut self.0.lock().unwrap())
    }

    fn answer(&self) -> Result<Response<wire::Empty>, Status> {
        match self.with(|inner| inner.refusals.pop_front()) {
            Some(code) => Err(code.status("scripted")),
            None => Ok(Response::new(wire::Empty {})),
        }
    }
}

fn not_scripted<T>() -> Result<Response<T>, Status> {
    Err(ErrorCode::Internal.status("not scripted"))
}

#[tonic::async_trait]
impl Coordinator for ServedCoordinator {
    type WatchStream = BoxStream<wire::Directive>;
    type FetchWeightsStream = BoxStream<wire::WeightChunk>;

    async fn fetch_weights(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<Self::FetchWeightsStream>, Status> {
        let wire::FetchRequest { version, manifest_only } = request.into_inner();
        let version = PolicyVersion::unpack(version);
        if manifest_only {
            let kept = self.with(|inner| inner.weights.get(&version).cloned());
            let (manifest, _) = kept.ok_or_else(|| ErrorCode::NotFound.status("not kept"))?;
            let only = weight_chunks(manifest, []).map(Ok);
            return Ok(Response::new(Box::pin(tokio_stream::iter(only))));
        }
        let (kept, transfer) = self.with(|inner| {
            inner.fetched.push(version);
            let transfer = inner.transfers.pop_front().unwrap_or(Transfer::Whole);
            (inner.weights.get(&version).cloned(), transfer)
        });
        let (manifest, mut bytes) = kept.ok_or_else(|| ErrorCode::NotFound.status("not kept"))?;
        let share = bytes.len() / 1000;
        match transfer {
            Transfer::Torn => *bytes.last_mut().unwrap() ^= 1,
            Transfer::Flipped(at) => bytes[at * share] ^= 1 << (at % 8),
            Transfer::Truncated(to) => bytes.truncate(to * share),
            Transfer::Whole | Transfer::Cut | Transfer::Broken => {}
        }
        let chunks: Vec<_> = weight_chunks(manifest, &bytes).map(Ok).collect();
        let first = chunks[..1].to_vec();
        let broken = || Status::unknown("error reading a body from connection");
        let chunks = match transfer {
            Transfer::Cut => first,
            Transfer::Broken => first.into_iter().chain([Err(broken())]).collect(),
            _ => chunks,
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn report_eval(
        &self,
        request: Request<wire::EvalReport>,
    ) -> Result<Response<wire::Empty>, Status> {
        let groups = request.into_inner().groups;
        let numbers = groups.iter().map(|group| GroupId(group.group)).collect();
        self.with(|inner| inner.evaluated.push(numbers));
        self.answer()
    }

    async fn return_group(
        &self,
        request: Request<wire::ReturnRequest>,
    ) -> Result<Response<wire::Empty>, Status> {
        let wire::ReturnRequest { group, detail, .. } = request.into_inner();
        self.with(|inner| inner.returned.push((GroupId(group), detail)));
        self.answer()
    }

    async fn register(
        &self,
        _: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterReply>, Status> {
        not_scripted()
    }

    async fn heartbeat(&self, _: Request<wire::Pulse>) -> Result<Response<wire::Empty>, Status> {
        not_scripted()
    }

    async fn inspect(&self, _: Request<wire::Empty>) -> Result<Response<wire::Inspection>, Status> {
        not_scripted()
    }

    async fn watch(
        &self,
        _: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        not_scripted()
    }

    async fn lease(
        &self,
        _: Request<wire::LeaseRequest>,
    ) -> Result<Response<wire::LeaseReply>, Status> {
        not_scripted()
    }

    async fn lease_examples(
        &self,
        _: Request<wire::ExamplesRequest>,
    ) -> Result<Response<wire::ExamplesReply>, Status> {
        not_scripted()
    }

    async fn publish_weights(
        &self,
        request: Request<Streaming<wire::WeightChunk>>,
    ) -> Result<Response<wire::Empty>, Status> {
        let mut chunks = request.into_inner();
        while chunks.next().await.is_some() {}
        not_scripted()
    }

    async fn commit_step(
        &self,
        _: Request<wire::StepRecord>,
    ) -> Result<Response<wire::Empty>, Status> {
        not_scripted()
    }

    async fn leave(&self, _: Request<wire::LeaveRequest>) -> Result<Response<wire::Empty>, Status> {
        not_scripted()
    }

    async fn reform(
        &self,
        _: Request<wire::ReformRequest>,
    ) -> Result<Response<wire::Empty>, Status> {
        Err(Status::unimplemented("this coordinator has no learner"))
    }
}
