//! The server in this process, through the clients that actors use.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Wake, Waker};

use proto::{
    ChannelSettings, ErrorCode, SpanFault, SpanReply, WeakClient, WeakInbox, WeakMessage,
    WeakOutbox,
};
use runtime::{Shutdown, within};
use security::{Guard, Protocol};
use telemetry::{AdminServer, AdminState, Exporter, Readiness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use types::Hash;

use super::*;
use crate::engine::{Command, Outbox};
use crate::fixtures::{Bench, LIMITS, Player, decoder, open, reference, rulebook};
use crate::sessions::StreamId;

const AMPLE: Duration = Duration::from_secs(60);

struct Running {
    address: String,
    tasks: TaskGroup,
    tokenizer: Hash,
}

fn miniature() -> Settings {
    let mut settings = Settings { seed: 3, ..Settings::default() };
    settings.strong.model = "fresh:miniature-strong".to_owned();
    settings.weak.model = "fresh:miniature-weak".to_owned();
    settings
}

async fn serve(settings: &Settings) -> Running {
    let model = WeakModel::load(settings).unwrap();
    let tokenizer = model.tokenizer.fingerprint();
    let guard = Guard::default();
    let listener = Listener::bind("127.0.0.1:0", "weak_server.listen", Protocol::Grpc, &guard);
    let listener = listener.await.unwrap();
    let address = listener.address();
    let tasks = TaskGroup::new(Shutdown::new());
    start(settings, model, listener, &tasks, Health::of_progress(AMPLE)).unwrap();
    Running { address: address.to_string(), tasks, tokenizer }
}

impl Running {
    async fn converse(&self, first: WeakMessage) -> Result<(WeakOutbox, WeakInbox), String> {
        let settings = ChannelSettings::default();
        let channel = proto::connect(&self.address, &settings).await.unwrap();
        let stream = WeakClient::new(channel, &settings).converse(first, 16).await;
        stream.map_err(|error| error.to_string())
    }

    async fn stream(&self) -> (WeakOutbox, WeakInbox) {
        self.converse(self.hello(&[fixtures::END])).await.unwrap()
    }

    fn hello(&self, stops: &[u32]) -> WeakMessage {
        let (actor, stops) = ("actor-0".to_owned(), stops.to_vec());
        WeakMessage::Hello { actor, tokenizer: self.tokenizer, stops }
    }

    async fn stop(self) {
        self.tasks.shutdown().trigger("the test is over");
        self.tasks.join(AMPLE).await.unwrap();
    }
}

async fn replies(inbox: &mut WeakInbox) -> Result<Option<Vec<SpanReply>>, proto::RpcError> {
    within("a reply", AMPLE, inbox.next()).await.unwrap()
}

/// Plays rollouts over one stream, several sessions at once.
async fn play(stream: &mut (WeakOutbox, WeakInbox), players: &mut [Player]) {
    while players.iter().any(|player| !player.done()) {
        let asking = players.iter_mut().filter(|player| !player.done());
        let requests: Vec<_> = asking.map(Player::request).collect();
        let mut open: BTreeSet<_> = requests.iter().map(|request| request.session).collect();
        stream.0.send(WeakMessage::Spans(requests)).await.unwrap();
        while !open.is_empty() {
            for reply in replies(&mut stream.1).await.unwrap().expect("the stream stays open") {
                assert!(open.remove(&reply.session));
                let player = players.iter_mut().find(|p| p.session == reply.session).unwrap();
                player.take(&reply.result.unwrap());
            }
        }
    }
}

fn players(keys: std::ops::Range<u8>, schedule: &str) -> Vec<Player> {
    keys.map(|key| Player::new(u64::from(key), open(schedule, key))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_actors_get_what_the_plain_decoder_writes() {
    let server = serve(&miniature()).await;
    let (mut one, mut two) = (server.stream().await, server.stream().await);
    let (mut ones, mut twos) = (players(0..3, "token:0.5"), players(0..2, "line:0.5"));
    tokio::join!(play(&mut one, &mut ones), play(&mut two, &mut twos));
    for player in ones.iter().chain(&twos) {
        assert_eq!(player.response, reference(&player.open).response);
    }
    server.stop().await;
    // As a status or as a closed connection, whichever arrives first: it ends, and says no more.
    assert!(!matches!(replies(&mut one.1).await, Ok(Some(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_ends_in_the_same_rollout() {
    let server = serve(&miniature()).await;
    let mut player = Player::new(4, open("token:0.5", 8));
    let mut stream = server.stream().await;
    let request = player.request();
    assert!(request.want_span);
    stream.0.send(WeakMessage::Spans(vec![request])).await.unwrap();
    player.take(replies(&mut stream.1).await.unwrap().unwrap()[0].result.as_ref().unwrap());
    // Asked, and gone before the answer.
    stream.0.send(WeakMessage::Spans(vec![player.request()])).await.unwrap();
    drop(stream);
    let mut stream = server.stream().await;
    stream.0.send(WeakMessage::Spans(vec![player.request()])).await.unwrap();
    let unknown = replies(&mut stream.1).await.unwrap().unwrap().remove(0).result.unwrap_err();
    assert_eq!(unknown.fault, SpanFault::UnknownSession);
    stream.0.send(WeakMessage::Spans(vec![player.resend()])).await.unwrap();
    player.take(replies(&mut stream.1).await.unwrap().unwrap()[0].result.as_ref().unwrap());
    play(&mut stream, std::slice::from_mut(&mut player)).await;
    assert_eq!(player.response, reference(&player.open).response);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_the_right_hello() {
    let server = serve(&miniature()).await;
    let actor = "actor-5".to_owned();
    let other = WeakMessage::Hello { actor, tokenizer: Hash([7; 32]), stops: vec![1] };
    let error = server.converse(other).await.unwrap_err();
    assert!(
        error.contains("the tokenizer of actor-5") && error.contains("strong.model"),
        "{error}"
    );
    // An actor that would write past the weak model's own end.
    let error = server.converse(server.hello(&[5, 9])).await.unwrap_err();
    assert!(error.contains("token 1 ends a text") && error.contains("weak.model"), "{error}");
    let error = server.converse(WeakMessage::Spans(vec![])).await.unwrap_err();
    assert!(error.contains("must be a hello"), "{error}");
    let (outbox, mut inbox) = server.stream().await;
    outbox.send(server.hello(&[1])).await.unwrap();
    let error = replies(&mut inbox).await.unwrap_err();
    assert!(error.code == ErrorCode::Invalid && error.message.contains("second hello"), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_the_bound_are_refused_until_one_ends() {
    let mut settings = miniature();
    settings.weak_server.streams = 2;
    let server = serve(&settings).await;
    let (first, mut second) = (server.stream().await, server.stream().await);
    let error = server.converse(server.hello(&[1])).await.unwrap_err();
    assert!(error.contains("2 streams") && error.contains("weak_server.streams"), "{error}");
    play(&mut second, &mut players(0..1, "token:0.5")).await;
    drop(first);
    let freed = async { while server.converse(server.hello(&[1])).await.is_err() {} };
    within("the place of the first stream", AMPLE, freed).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_bound_ends_its_stream_only() {
    let mut settings = miniature();
    settings.limits.message_bytes = 4096;
    let server = serve(&settings).await;
    let mut other = server.stream().await;
    let (outbox, mut inbox) = server.stream().await;
    let mut request = Player::new(1, open("token:1", 1)).request();
    request.append = vec![5; 5000];
    outbox.send(WeakMessage::Spans(vec![request])).await.unwrap();
    let error = replies(&mut inbox).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    play(&mut other, &mut players(0..1, "token:0.5")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_read_is_closed_and_the_engine_goes_on() {
    let tasks = TaskGroup::new(Shutdown::new());
    let cache = RaggedEngine::new(decoder(), LIMITS.sessions, fixtures::CAPACITY).unwrap();
    let batcher = Batcher::new(LIMITS, rulebook());
    let engine = engine::start(&tasks, cache, batcher, 64, Health::of_progress(AMPLE)).unwrap();
    let mut ends = Vec::new();
    for stream in [StreamId(0), StreamId(1)] {
        let (replies, messages) = mpsc::channel(1);
        let (open, closed) = oneshot::channel();
        let outbox = Outbox { replies, refusal: Arc::default(), open };
        ends.push((messages, closed, Arc::clone(&outbox.refusal)));
        engine.send(Command::Open { stream, outbox }).await.unwrap();
    }
    let spans = |stream, key: u8| {
        let requests = vec![Player::new(u64::from(key), open("token:1", key)).request()];
        Command::Spans { stream: StreamId(stream), requests, received: std::time::Instant::now() }
    };
    let (mut others, _, _) = ends.remove(1);
    let (mut unread, closed, refusal) = ends.remove(0);
    for key in 0..3 {
        engine.send(spans(0, key)).await.unwrap();
        // The other stream's answer shows that the engine has taken the request before.
        engine.send(spans(1, key)).await.unwrap();
        within("the other stream", AMPLE, others.recv()).await.unwrap().unwrap();
    }
    within("the end of the stream", AMPLE, closed).await.unwrap().unwrap_err();
    let (code, reason) = refusal.get().expect("it says why").clone();
    assert_eq!(code, ErrorCode::Overloaded);
    assert!(reason.contains("weak_server.reply_messages"), "{reason}");
    assert_eq!(unread.recv().await.map(|replies| replies.len()), Some(1));
    assert_eq!(unread.recv().await, None);
    tasks.shutdown().trigger("the test is over");
    tasks.join(AMPLE).await.unwrap();
}

async fn healthz(address: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /healthz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn until_healthz(address: std::net::SocketAddr, status: &str) -> String {
    let answered = async {
        loop {
            let answer = healthz(address).await;
            if answer.starts_with(status) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(status, AMPLE, answered).await.unwrap()
}

/// Holds the thread that wakes it until the other end is dropped.
struct Held(Mutex<std::sync::mpsc::Receiver<()>>);

impl Wake for Held {
    fn wake(self: Arc<Self>) {
        let _ = self.0.lock().unwrap().recv();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_engine_is_unhealthy_until_it_goes_on() {
    let tasks = TaskGroup::new(Shutdown::new());
    let health = Health::of_progress(Duration::from_secs(2));
    let admin = AdminServer::bind("127.0.0.1:0", &Guard::default()).await.unwrap();
    let address = admin.address();
    let (_recorder, exporter) = Exporter::build(&[]).unwrap();
    let readiness = Readiness::new(&[]);
    let state = AdminState { exporter, health: health.clone(), readiness, json: Vec::new() };
    let stop = tasks.shutdown().wait();
    tasks.spawn("admin", async move {
        admin.serve(state, stop).await;
        Ok(())
    });

    let cache = RaggedEngine::new(decoder(), LIMITS.sessions, fixtures::CAPACITY).unwrap();
    let engine =
        engine::start(&tasks, cache, Batcher::new(LIMITS, rulebook()), 64, health).unwrap();
    until_healthz(address, "HTTP/1.1 200").await;

    // The engine's thread wakes whoever waits for a stream's end, and waits in there for the test.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let waker = Waker::from(Arc::new(Held(Mutex::new(released))));
    let (replies, _messages) = mpsc::channel(1);
    let (open, mut closed) = oneshot::channel();
    assert!(Pin::new(&mut closed).poll(&mut Context::from_waker(&waker)).is_pending());
    let outbox = Outbox { replies, refusal: Arc::default(), open };
    let stream = StreamId(0);
    engine.send(Command::Open { stream, outbox }).await.unwrap();
    engine.send(Command::Gone { stream }).await.unwrap();
    let answer = until_healthz(address, "HTTP/1.1 503").await;
    assert!(answer.contains("no progress for ") && answer.contains("the limit is 2 s"), "{answer}");
    drop(release);
    until_healthz(address, "HTTP/1.1 200").await;
    tasks.shutdown().trigger("the test is over");
    tasks.join(AMPLE).await.unwrap();
}

#[test]
fn a_tokenizer_of_its_own_is_refused_and_a_missing_strong_model_is_not() {
    let mut settings = miniature();
    let known = WeakModel::load(&settings).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let json = known.tokenizer.json().unwrap().replace("\"apples\"", "\"pears\"");
    std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    std::fs::write(dir.path().join("config.json"), decoder().config().to_json()).unwrap();
    settings.strong.model = dir.path().display().to_string();
    let error = format!("{:#}", WeakModel::load(&settings).err().expect("must be refused"));
    assert!(error.contains("different tokenizers") && error.contains("apples"), "{error}");
    settings.strong.model = "nowhere".to_owned();
    WeakModel::load(&settings).unwrap();
    settings.weak.model = "nowhere".to_owned();
    let error = format!("{:#}", WeakModel::load(&settings).err().expect("must be refused"));
    assert!(error.contains("weak.model") && error.contains("nowhere"), "{error}");
}

#[test]
fn the_bench_and_the_server_agree_on_the_task() {
    // The fixtures' rule is the miniature's: else the two kinds of tests would test two rules.
    let model = WeakModel::load(&miniature()).unwrap();
    let boundaries = task::boundaries(&miniature(), &model.tokenizer).unwrap();
    assert_eq!(boundaries, *rulebook().boundaries);
    assert!(Bench::new(LIMITS).batcher.is_idle());
}
