//! A coordinator over real gRPC that takes groups back and nothing else.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::wire::coordinator as wire;
use proto::wire::coordinator::coordinator_server::{Coordinator, CoordinatorServer};
use proto::{ErrorCode, ReturnedGroup};
use runtime::TaskGroup;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub(super) struct ServedCoordinator {
    /// Calls that are still to fail.
    failing: Arc<Mutex<u32>>,
    returned: Arc<Mutex<Vec<ReturnedGroup>>>,
}

impl ServedCoordinator {
    /// Serves on a free port until the group's shutdown; the address comes with it.
    pub(super) async fn start(failing: u32, tasks: &TaskGroup) -> (Self, String) {
        let served = Self { failing: Arc::new(Mutex::new(failing)), returned: Arc::default() };
        let listener = crate::fixtures::listen().await;
        let address = listener.address();
        let service = CoordinatorServer::new(served.clone());
        let stop = tasks.shutdown().wait();
        tasks.spawn("coordinator", async move {
            let (mut server, incoming) = proto::accept(listener);
            let server = server.add_service(service);
            Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
        });
        (served, address.to_string())
    }

    pub(super) fn returned(&self) -> Vec<ReturnedGroup> {
        self.returned.lock().unwrap().clone()
    }
}

fn nothing_else<T>() -> Answer<T> {
    Err(Status::unimplemented("this coordinator only takes groups back"))
}

#[tonic::async_trait]
impl Coordinator for ServedCoordinator {
    type WatchStream = BoxStream<wire::Directive>;
    type FetchWeightsStream = BoxStream<wire::WeightChunk>;

    async fn return_group(&self, request: Request<wire::ReturnRequest>) -> Answer<wire::Empty> {
        let mut failing = self.failing.lock().unwrap();
        if *failing > 0 {
            *failing -= 1;
            return Err(ErrorCode::Unavailable.status("not yet"));
        }
        let returned = ReturnedGroup::try_from(request.into_inner()).unwrap();
        self.returned.lock().unwrap().push(returned);
        Ok(Response::new(wire::Empty {}))
    }

    async fn register(&self, _: Request<wire::RegisterRequest>) -> Answer<wire::RegisterReply> {
        nothing_else()
    }

    async fn heartbeat(&self, _: Request<wire::Pulse>) -> Answer<wire::Empty> {
        nothing_else()
    }

    async fn inspect(&self, _: Request<wire::Empty>) -> Answer<wire::Inspection> {
        nothing_else()
    }

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        nothing_else()
    }

    async fn lease(&self, _: Request<wire::LeaseRequest>) -> Answer<wire::LeaseReply> {
        nothing_else()
    }

    async fn report_eval(&self, _: Request<wire::EvalReport>) -> Answer<wire::Empty> {
        nothing_else()
    }

    async fn lease_examples(
        &self,
        _: Request<wire::ExamplesRequest>,
    ) -> Answer<wire::ExamplesReply> {
        nothing_else()
    }

    async fn publish_weights(
        &self,
        _: Request<Streaming<wire::WeightChunk>>,
    ) -> Answer<wire::Empty> {
        nothing_else()
    }

    async fn fetch_weights(
        &self,
        _: Request<wire::FetchRequest>,
    ) -> Answer<Self::FetchWeightsStream> {
        nothing_else()
    }

    async fn reform(&self, _: Request<wire::ReformRequest>) -> Answer<wire::Empty> {
        nothing_else()
    }

    async fn leave(&self, _: Request<wire::LeaveRequest>) -> Answer<wire::Empty> {
        nothing_else()
    }

    async fn commit_step(&self, _: Request<wire::StepRecord>) -> Answer<wire::Empty> {
        nothing_else()
    }
}
