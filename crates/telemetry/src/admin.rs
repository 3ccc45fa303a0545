//! The admin port that every process has: `/metrics`, `/healthz`, `/readyz`, and what else a process
//! adds. It serves what others recorded, to those whom `security` lets in, and decides nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_process::Collector;
use security::{Connection, Denied, Guard, ListenError, Listener, Protocol};
use tokio::sync::watch;
use tower_service::Service;

use crate::{Exporter, Health, Readiness};

/// How often raw histogram samples are folded into buckets; it bounds what piles up.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// What an open request may still take once the process stops.
const DRAIN_LIMIT: Duration = Duration::from_millis(250);

/// Headers of one request; a scrape has five.
const HEADERS_MAX: usize = 32;

/// The text format that Prometheus has understood since 2014.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const JSON_CONTENT_TYPE: &str = "application/json";

/// What the admin port answers from.
#[derive(Clone)]
pub struct AdminState {
    pub exporter: Exporter,
    pub health: Health,
    pub readiness: Readiness,
    /// What this process answers beside [`AdminServer::paths`].
    pub json: Vec<JsonRoute>,
}

/// A path that is answered with JSON.
#[derive(Clone)]
pub struct JsonRoute {
    path: &'static str,
    body: Arc<dyn Fn() -> String + Send + Sync>,
}

impl JsonRoute {
    /// `body` is asked for each answer.
    pub fn new(path: &'static str, body: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { path, body: Arc::new(body) }
    }
}

/// A bound admin port that does not answer yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: Listener,
}

type Route = (&'static str, fn() -> MethodRouter<Arc<Answers>>);

/// All there is; each is answered only to those who may ask.
const ROUTES: [Route; 3] =
    [("/metrics", || get(metrics)), ("/healthz", || get(healthz)), ("/readyz", || get(readyz))];

impl AdminServer {
    /// Takes the port of `admin.listen`; 0 lets the system choose.
    ///
    /// # Errors
    /// The port is in use, or other machines reach it and nothing protects it.
    pub async fn bind(listen: &str, guard: &Guard) -> Result<Self, ListenError> {
        let listener = Listener::bind(listen, "admin.listen", Protocol::Admin, guard).await?;
        Ok(Self { listener })
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Every path that all processes answer.
    pub fn paths() -> impl Iterator<Item = &'static str> {
        ROUTES.into_iter().map(|(path, _)| path)
    }

    /// Answers until `shutdown` resolves. The caller spawns the future; connections and upkeep of
    /// the exporter run inside it.
    pub async fn serve(
        self,
        state: AdminState,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let exporter = state.exporter.clone();
        let guard = self.listener.guard().clone();
        let door = Door { routes: routes(state), guard, stop: watch::Sender::new(()) };
        let mut incoming = self.listener.incoming();
        let mut open = FuturesUnordered::new();
        let mut shutdown = pin!(shutdown);
        let mut upkeep = pin!(keep_up(&exporter));
        loop {
            tokio::select! {
                connection = incoming.next() => open.push(door.answer(connection)),
                Some(()) = open.next(), if !open.is_empty() => {}
                () = &mut upkeep => {}
                () = &mut shutdown => break,
            }
        }
        drop(incoming);
        door.stop.send_replace(());
        // Whoever keeps a connection open does not hold the process up.
        let drained = async { while open.next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
    }
}

/// Between connections and routes: bounds of a request, and the check of its token.
struct Door {
    routes: Router,
    guard: Guard,
    stop: watch::Sender<()>,
}

impl Door {
    /// Serves one connection to its end, or to the stop.
    fn answer(&self, connection: Connection) -> impl Future<Output = ()> + use<> {
        let limits = self.guard.limits();
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(u64::from(limits.handshake_timeout_ms)))
            .max_headers(HEADERS_MAX)
            .max_buf_size(limits.header_bytes as usize);
        let (proof, mut stop) = (connection.proof(), self.stop.subscribe());
        let (routes, guard) = (self.routes.clone(), self.guard.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let header = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
            let admitted = guard.authorize(header);
            let (mut routes, proof) = (routes.clone(), proof.clone());
            async move {
                match admitted {
                    Err(denied) => Ok(refusal(denied)),
                    Ok(()) => {
                        proof.give();
                        routes.call(request).await
                    }
                }
            }
        });
        async move {
            let mut served = pin!(server.serve_connection(TokioIo::new(connection), service));
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                _ = stop.changed() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an admin connection broke");
            }
        }
    }
}

fn refusal(denied: Denied) -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, format!("{denied}\n")).into_response()
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
    let json = state.json.clone().into_iter().map(|JsonRoute { path, body }| {
        let answer = move || {
            let json = [(header::CONTENT_TYPE, JSON_CONTENT_TYPE)];
            std::future::ready((json, body()))
        };
        (path, get(answer))
    });
    let routes = ROUTES.into_iter().map(|(path, route)| (path, route())).chain(json);
    let router = routes.fold(Router::new(), |router, (path, route)| router.route(path, route));
    router.with_state(Arc::new(Answers { state, process }))
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
    use settings::Settings;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{Counter, Metric};

    static STEPS: Counter = Counter::new("tandem_learner_steps_total", "Steps committed.");

    const ANY: &str = "127.0.0.1:0";

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
            json: vec![JsonRoute::new("/list", || r#"["a"]"#.to_owned())],
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> (String, String) {
        ask_with(address, path, "").await
    }

    async fn ask_with(address: SocketAddr, path: &str, headers: &str) -> (String, String) {
        let answer = try_ask(address, path, headers).await.expect("the port is bound");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        (head.to_owned(), body.to_owned())
    }

    async fn try_ask(address: SocketAddr, path: &str, headers: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        // A server that has refused a request reads no more of it, which may break the connection.
        let _ = stream.read_to_string(&mut answer).await;
        Ok(answer)
    }

    /// Runs `client` against a server, then stops the server, which must end well.
    async fn with_server<F: Future>(
        state: AdminState,
        client: impl FnOnce(SocketAddr) -> F,
    ) -> F::Output {
        with_guarded(&Guard::default(), state, client).await
    }

    async fn with_guarded<F: Future>(
        guard: &Guard,
        state: AdminState,
        client: impl FnOnce(SocketAddr) -> F,
    ) -> F::Output {
        let server = AdminServer::bind(ANY, guard).await.expect("a free port");
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
        tokio::join!(serving, client).1
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
    async fn what_a_process_adds_is_answered_as_json() {
        let (head, body) = with_server(state(Duration::MAX), |address| ask(address, "/list")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(body, r#"["a"]"#);
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
    async fn row_20_every_path_asks_for_the_token() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, token) = (dir.path().join("token"), "t".repeat(32));
        std::fs::write(&path, &token).expect("a file");
        let mut settings = Settings::default();
        settings.security.token_file = path.to_str().expect("a plain name").to_owned();
        let guard = Guard::open(&settings).expect("a good token");
        with_guarded(&guard, state(Duration::MAX), |address| async move {
            let right = format!("authorization: Bearer {token}\r\n");
            let wrong = format!("authorization: Bearer {token}t\r\n");
            for path in AdminServer::paths().chain(["/list", "/", "/nothing"]) {
                let (head, body) = ask(address, path).await;
                assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
                assert!(head.contains("www-authenticate: Bearer"), "{head}");
                assert!(body.starts_with("no token came with the call"), "{body}");
                let (head, body) = ask_with(address, path, &wrong).await;
                assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
                assert!(body.starts_with("the token is not this run's"), "{body}");
                let (head, _) = ask_with(address, path, &right).await;
                assert!(!head.starts_with("HTTP/1.1 401"), "{path}: {head}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn requests_and_connections_have_bounds() {
        let mut settings = Settings::default();
        settings.limits.admin_connections = 2;
        let guard = Guard::open(&settings).expect("no files");
        let limits = settings.limits;
        with_guarded(&guard, state(Duration::MAX), |address| async move {
            let long = format!("x: {}\r\n", "y".repeat(20 << 10));
            let (head, _) = ask_with(address, "/healthz", &long).await;
            assert!(head.starts_with("HTTP/1.1 431"), "{head}");
            let many: String = (0..HEADERS_MAX).map(|n| format!("x{n}: y\r\n")).collect();
            let (head, _) = ask_with(address, "/healthz", &many).await;
            assert!(head.starts_with("HTTP/1.1 431"), "{head}");
            let held = [TcpStream::connect(address).await, TcpStream::connect(address).await];
            let mut third = TcpStream::connect(address).await.expect("it is closed after that");
            // Long before a connection without a request would be.
            let soon = Duration::from_millis(u64::from(limits.handshake_timeout_ms) / 2);
            let closed = tokio::time::timeout(soon, async { third.read(&mut [0; 1]).await.ok() });
            assert_eq!(closed.await, Ok(Some(0)), "closed at once");
            drop(held);
            let is_served = |answer: std::io::Result<String>| {
                answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            };
            let served = async { while !is_served(try_ask(address, "/healthz", "").await) {} };
            tokio::time::timeout(Duration::from_secs(30), served).await.expect("places come back");
        })
        .await;
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
        let first = AdminServer::bind(ANY, &Guard::default()).await.expect("a free port");
        let taken = first.address().to_string();
        let failure = AdminServer::bind(&taken, &Guard::default()).await.expect_err("it is taken");
        assert!(failure.to_string().contains(&first.address().to_string()), "{failure}");
    }
}
