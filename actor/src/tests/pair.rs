//! The actor's engine and weak source against the real weak server: whatever is lost between them,
//! the rollout is the one that is written without the fault.

use std::time::Duration;

use proto::{ChannelSettings, Open, SpanRequest, WeakClient, WeakInbox, WeakMessage, WeakOutbox};
use runtime::{Shutdown, TaskGroup, within};
use telemetry::Health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use types::SessionId;
use weak_server::WeakModel;

use super::harness::{AMPLE, Harness, assert_equal, long_item, patient, retries, source_settings};
use super::*;
use crate::{SpanAsk, WeakSource, WeakWork};

fn settings(sessions: u32) -> Settings {
    let mut settings = Settings { seed: 12, ..Settings::default() };
    settings.strong.model = "fresh:miniature-strong".to_owned();
    settings.weak.model = "fresh:miniature-weak".to_owned();
    settings.weak_server.sessions = sessions;
    settings
}

/// A real weak server until the shutdown of `tasks`.
async fn serve(sessions: u32, tasks: &TaskGroup) -> String {
    let settings = settings(sessions);
    let model = WeakModel::load(&settings).unwrap();
    let listener = super::listen().await;
    let address = listener.address().to_string();
    weak_server::start(&settings, model, listener, tasks, Health::of_progress(AMPLE)).unwrap();
    address
}

/// What is written when nothing goes wrong.
async fn undisturbed(item: WorkItem) -> RolloutGroup {
    let tasks = TaskGroup::new(Shutdown::new());
    let address = serve(8, &tasks).await;
    let group = Harness::start(vec![address], patient(), &tasks).await.write(item).await.unwrap();
    assert_eq!(retries(&group), 0);
    end(tasks).await;
    group
}

async fn end(tasks: TaskGroup) {
    tasks.shutdown().trigger("the test is over");
    tasks.join(AMPLE).await.unwrap();
}

/// Another actor's stream, spoken by hand.
struct Stranger {
    stream: (WeakOutbox, WeakInbox),
    sessions: u64,
}

impl Stranger {
    async fn at(address: &str) -> Self {
        let settings = ChannelSettings::default();
        let channel = proto::connect(address, &settings).await.unwrap();
        let ours = source_settings(patient());
        let hello = WeakMessage::Hello {
            actor: "stranger".to_owned(),
            tokenizer: ours.tokenizer,
            stops: ours.stops,
        };
        let stream = WeakClient::new(channel, &settings).converse(hello, 4).await.unwrap();
        Self { stream, sessions: 0 }
    }

    /// Opens a session and has one token written: a forward at least, and a row of the cache.
    async fn span(&mut self) {
        self.sessions += 1;
        let sampling = Sampling { max_tokens: 1, ..item("token:1", 1, 1).sampling };
        let open = Open {
            prompt: vec![5, 6, 7],
            schedule: "token:1".to_owned(),
            key: [1; 32],
            sampling,
            stops: rules().task.stops().to_vec(),
            weak_may_end: true,
            max_gap: 32,
        };
        let request = SpanRequest {
            session: SessionId(self.sessions),
            prefix_hash: SpanRequest::hash_prefix(&open.prompt, &[]),
            open: Some(open),
            from: 0,
            append: Vec::new(),
            want_span: true,
            deadline: Duration::from_secs(30),
        };
        self.stream.0.send(WeakMessage::Spans(vec![request])).await.unwrap();
        let replies = within("the stranger's reply", AMPLE, self.stream.1.next()).await;
        replies.unwrap().unwrap().unwrap().remove(0).result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cache_and_lost_sessions_end_in_the_same_rollout() {
    let expected = undisturbed(long_item()).await;
    let tasks = TaskGroup::new(Shutdown::new());
    let address = serve(1, &tasks).await;
    let mut actor = Harness::start(vec![address.clone()], patient(), &tasks).await;
    let mut stranger = Stranger::at(&address).await;
    // Every opening of the stranger's takes the only row.
    actor.begin(long_item()).await;
    let (found, ()) = {
        let (done, mut over) = watch::channel(false);
        let strange = async {
            while !*over.borrow_and_update() {
                stranger.span().await;
            }
        };
        let written = async {
            let group = actor.ended().await.unwrap();
            done.send_replace(true);
            group
        };
        tokio::join!(written, strange)
    };
    assert_equal(&found, &expected);
    assert!(retries(&found) >= 1, "no session was lost");
    end(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_actors_on_one_row_write_what_each_writes_alone() {
    let other_item = || WorkItem { group: GroupId(61), key_group: GroupId(61), ..long_item() };
    let (one, two) = (undisturbed(long_item()).await, undisturbed(other_item()).await);
    let tasks = TaskGroup::new(Shutdown::new());
    let address = serve(1, &tasks).await;
    let mut first = Harness::start(vec![address.clone()], patient(), &tasks).await;
    let mut second = Harness::start(vec![address], patient(), &tasks).await;
    // One may be done before the other begins; they do it again then.
    for _ in 0..50 {
        let (a, b) = tokio::join!(first.write(long_item()), second.write(other_item()));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_equal(&a, &one);
        assert_equal(&b, &two);
        if retries(&a) + retries(&b) >= 1 {
            return end(tasks).await;
        }
    }
    panic!("nobody lost a session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_drops_in_mid_span_ends_in_the_same_rollout() {
    // One handoff, in the middle: the weak model writes the second half in one span.
    let takeover = || {
        let mut item = item("takeover:0.5", 62, 1);
        item.sampling.max_tokens = 80;
        item.sampling.banned.extend(rules().task.stops());
        item
    };
    let expected = undisturbed(takeover()).await;
    let tasks = TaskGroup::new(Shutdown::new());
    let address = serve(8, &tasks).await;
    let line = Line::start(address.clone(), &tasks).await;
    let mut actor = Harness::start(vec![line.address.clone()], patient(), &tasks).await;
    // The line is open once a first group has been written over it.
    actor.write(item("token:1", 63, 1)).await.unwrap();
    let sent = *line.sent.borrow();
    line.hold_replies();
    actor.begin(takeover()).await;
    let mut asked = line.sent.clone();
    // The opening with its ban of 124 tokens; nothing else that is sent is nearly as large.
    let opening = asked.wait_for(|bytes| *bytes > sent + 400);
    within("the request", AMPLE, opening).await.unwrap().unwrap();
    // Their rows share the batch: forwards have gone through the span.
    let mut stranger = Stranger::at(&address).await;
    for _ in 0..3 {
        stranger.span().await;
    }
    line.cut();
    let found = actor.ended().await.unwrap();
    assert_equal(&found, &expected);
    assert_eq!(retries(&found), 1);
    end(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_does_not_know_the_weak_models_end_is_ended() {
    let tasks = TaskGroup::new(Shutdown::new());
    let address = serve(1, &tasks).await;
    let directive = proto::Directive { weak_servers: vec![address], ..proto::Directive::default() };
    let (_directing, directives) = watch::channel(directive);
    let (work, asks) = mpsc::channel(1);
    let (engine, _commands) = mpsc::channel(1);
    let settings = crate::WeakSourceSettings { stops: vec![9], ..source_settings(patient()) };
    let source = WeakSource::new(settings, directives, asks, engine);
    let open = Open {
        prompt: vec![5],
        schedule: "token:1".to_owned(),
        key: [1; 32],
        sampling: item("token:1", 1, 1).sampling,
        stops: vec![9],
        weak_may_end: true,
        max_gap: 32,
    };
    let ask = SpanAsk {
        rollout: crate::RolloutId(1),
        open: std::sync::Arc::new(open),
        known: 0,
        response: Vec::new(),
        until: Instant::now() + AMPLE,
    };
    work.send(WeakWork::Ask(vec![ask])).await.unwrap();
    let ended = within("the source's end", AMPLE, source.run(Shutdown::new())).await.unwrap();
    let error = format!("{:#}", ended.unwrap_err());
    assert!(error.contains("refuses this actor") && error.contains("token 1 ends a text"));
    assert!(error.contains("weak.model"), "{error}");
    end(tasks).await;
}

/// A connection between two peers that can be made to swallow replies and to break.
struct Line {
    address: String,
    /// Bytes towards the server so far.
    sent: watch::Receiver<u64>,
    state: watch::Sender<LineState>,
}

#[derive(Clone, Copy, Default)]
struct LineState {
    replies_held: bool,
    cuts: u32,
}

impl Line {
    async fn start(server: String, tasks: &TaskGroup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (state, states) = watch::channel(LineState::default());
        let (sender, sent) = watch::channel(0);
        let stop = tasks.shutdown().wait();
        tasks.spawn("line", async move {
            // One peer, whose connections come one after the other.
            let passing = async {
                loop {
                    let (client, _) = listener.accept().await?;
                    let server = TcpStream::connect(&server).await?;
                    pass(client, server, states.clone(), &sender).await;
                }
            };
            tokio::select! {
                () = stop => Ok(()),
                ended = passing => ended,
            }
        });
        Self { address, sent, state }
    }

    fn hold_replies(&self) {
        self.state.send_modify(|state| state.replies_held = true);
    }

    fn cut(&self) {
        self.state
            .send_modify(|state| *state = LineState { replies_held: false, cuts: state.cuts + 1 });
    }
}

/// Until either side closes, or the line is cut.
async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    mut states: watch::Receiver<LineState>,
    sent: &watch::Sender<u64>,
) {
    let start = *states.borrow_and_update();
    let (mut up, mut down) = (vec![0; 1 << 14], vec![0; 1 << 14]);
    loop {
        let held = states.borrow().replies_held;
        tokio::select! {
            biased;
            changed = states.changed() => {
                if changed.is_err() || states.borrow().cuts != start.cuts {
                    return;
                }
            }
            read = client.read(&mut up) => match read {
                Ok(count @ 1..) if server.write_all(&up[..count]).await.is_ok() => {
                    sent.send_modify(|bytes| *bytes += count as u64);
                }
                _ => return,
            },
            read = server.read(&mut down), if !held => match read {
                Ok(count @ 1..) if client.write_all(&down[..count]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}
