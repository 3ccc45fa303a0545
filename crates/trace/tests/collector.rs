//! Spans reach a collector: a real one's protocol over gRPC, answered by a server of this test. It is
//! a binary of its own, since the collector is named by the environment.
#![cfg(feature = "otlp")]

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tracing_subscriber::layer::SubscriberExt;

/// With it this binary is the process that is traced.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let sent = self.0.send(request.into_inner());
        sent.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_a_process_arrive_with_their_names_and_parents() {
    if std::env::var_os(ENDPOINT).is_some() {
        return traced();
    }
    let (sender, receiver) = mpsc::channel();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = TraceServiceServer::new(Collector(sender));
    let server = Server::builder().add_service(service).serve_with_incoming(incoming);
    let child = async {
        let child = Command::new(std::env::current_exe().unwrap())
            .env(ENDPOINT, format!("http://{address}"))
            .env_remove("OTEL_SERVICE_NAME")
            .spawn();
        let mut child = child.unwrap();
        tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap()
    };
    tokio::select! {
        served = server => panic!("the collector ended: {served:?}"),
        status = child => assert!(status.success(), "{status}"),
    }
    let found = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
    let resource = &found.resource_spans[0];
    let attributes = format!("{:?}", resource.resource);
    assert!(attributes.contains("tandem-learner-0"), "{attributes}");
    let spans = &resource.scope_spans[0].spans;
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (step, call) = (of("step"), of("publish_weights"));
    assert_eq!(call.trace_id, step.trace_id);
    assert_eq!(call.parent_span_id, step.span_id);
}

fn traced() {
    let (layer, exporting) = trace::start("learner-0");
    assert_eq!(exporting.fault, None);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let _step = trace::doing("step").entered();
        trace::calling("publish_weights").in_scope(|| {});
    });
    drop(exporting);
}
