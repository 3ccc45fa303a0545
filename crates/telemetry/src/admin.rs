//! The admin port that every process has: `/metrics`, `/healthz`, `/readyz`. It serves what
//! others recorded and decides nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_process::Collector;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::{Exporter, Health, Readiness};

/// How often raw histogram samples are folded into buckets; it bounds what piles up.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// What an open request may still take once the process stops.
const DRAIN_LIMIT: Duration = Duration::from_millis(250);

/// The text format that Prometheus has understood since 2014.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin port answers from.
#[derive(Clone)]
pub struct AdminState {
    pub exporter: Exporter,
    pub health: Health,
    pub readiness: Readiness,
}

/// A bound admin port that does not answer yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminServer {
    /// Takes the port; 0 lets the system choose.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on admin address {address}, choose another port or 0 for any")
        })?;
        let address = listener.local_addr().context("the admin port has no address")?;
        Ok(Self { listener, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves. The caller spawns the future; upkeep of the exporter
    /// runs inside it.
    pub async fn serve(
        self,
        state: AdminState,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let exporter = state.exporter.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(self.listener, routes(state)).with_graceful_shutdown(async {
            // A dropped sender means the same: this future is on its way out.
            let _ = stopped.await;
        });
        let mut serving = std::pin::pin!(serving.into_future());
        tokio::select! {
            ended = &mut serving => return ended.context("the admin port failed"),
            () = shutdown => {}
            () = keep_up(&exporter) => {}
        }
        drop(stop);
        // Whoever keeps a connection open does not hold the process up.
        let drained = tokio::time::timeout(DRAIN_LIMIT, serving).await;
        drained.unwrap_or(Ok(())).context("the admin port failed")
    }
}

async fn keep_up(exporter: &Exporter) {
    let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
    loop {
        ticks.tick().await;
        exporter.upkeep();
    }
}

struct Answers {
    state: AdminState,
    process: Collector,
}

fn routes(state: AdminState) -> Router {
    let process = Collector::default();
    process.describe();
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Answers { state, process }))
}

async fn metrics(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    answers.process.collect();
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], answers.state.exporter.render())
}

async fn healthz(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    match answers.state.health.check(Instant::now()) {
        Ok(()) => (StatusCode::OK, "healthy\n".to_owned()),
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")),
    }
}

async fn readyz(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    let missing = answers.state.readiness.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::{Counter, Metric};

    static STEPS: Counter = Counter::new("tandem_learner_steps_total", "Steps committed.");

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn state(limit: Duration) -> AdminState {
        let exporter = Exporter::build(&[]).map(|(recorder, exporter)| {
            metrics::with_local_recorder(&recorder, || {
                STEPS.describe();
                STEPS.increment(3, &[]);
            });
            exporter
        });
        AdminState {
            exporter: exporter.expect("no bucket list is empty"),
            health: Health::of_progress(limit),
            readiness: Readiness::new(&["weights", "coordinator"]),
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.expect("the port is bound");
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the server answers in text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        (head.to_owned(), body.to_owned())
    }

    /// Runs `client` against a server, then stops the server, which must end well.
    async fn with_server<F: Future>(
        state: AdminState,
        client: impl FnOnce(SocketAddr) -> F,
    ) -> F::Output {
        let server = AdminServer::bind(ANY).await.expect("a free port");
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = server.serve(state, async {
            stopped.await.expect("the test stops the server");
        });
        let client = async {
            let output = client(address).await;
            stop.send(()).expect("the server waits for the stop");
            output
        };
        let (served, output) = tokio::join!(serving, client);
        served.expect("the server ends well");
        output
    }

    #[tokio::test]
    async fn metrics_come_in_the_text_format() {
        let (head, body) =
            with_server(state(Duration::MAX), |address| ask(address, "/metrics")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("# TYPE tandem_learner_steps_total counter"), "{body}");
        assert!(body.contains("\ntandem_learner_steps_total 3\n"), "{body}");
    }

    #[tokio::test]
    async fn readiness_names_what_is_waited_for() {
        let state = state(Duration::MAX);
        let readiness = state.readiness.clone();
        with_server(state, |address| async move {
            let (head, body) = ask(address, "/readyz").await;
            assert!(head.starts_with("HTTP/1.1 503"), "{head}");
            assert_eq!(body, "waiting for coordinator, weights\n");
            readiness.set("weights");
            readiness.set("coordinator");
            let (head, body) = ask(address, "/readyz").await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert_eq!(body, "ready\n");
        })
        .await;
    }

    #[tokio::test]
    async fn health_is_progress_and_unknown_paths_are_not_found() {
        let good = with_server(state(Duration::MAX), |address| ask(address, "/healthz")).await;
        assert!(good.0.starts_with("HTTP/1.1 200"), "{}", good.0);
        let stuck = with_server(state(Duration::ZERO), |address| ask(address, "/healthz")).await;
        assert!(stuck.0.starts_with("HTTP/1.1 503"), "{}", stuck.0);
        assert_eq!(stuck.1, "no progress for 0 s, the limit is 0 s\n");
        let other = with_server(state(Duration::MAX), |address| ask(address, "/")).await;
        assert!(other.0.starts_with("HTTP/1.1 404"), "{}", other.0);
    }

    #[tokio::test]
    async fn an_idle_client_does_not_hold_the_stop_up() {
        let idle = with_server(state(Duration::MAX), TcpStream::connect).await;
        drop(idle.expect("the port is bound"));
    }

    #[tokio::test]
    async fn half_a_request_does_not_hold_the_stop_up() {
        let half = with_server(state(Duration::MAX), async |address| {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost").await?;
            Ok::<_, std::io::Error>(stream)
        })
        .await;
        drop(half.expect("the port is bound"));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = AdminServer::bind(ANY).await.expect("a free port");
        let failure = AdminServer::bind(first.address()).await.expect_err("it is taken");
        assert!(failure.to_string().contains(&first.address().to_string()), "{failure}");
    }
}
