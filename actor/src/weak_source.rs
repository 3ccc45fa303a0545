//! The stream to the weak server: connects when there is something to ask, sends what the book
//! says is due, hands replies to the engine, comes back after a break. What a reply or a fault
//! means is the book's.

use std::collections::VecDeque;
use std::future::pending;
use std::time::{Duration, Instant};

use proto::{
    ChannelSettings, Directive, ErrorCode, RpcError, SpanReply, WeakClient, WeakInbox, WeakMessage,
    WeakOutbox,
};
use runtime::{RetryPolicy, Shutdown, waiting};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use types::{Hash, TokenId};

use crate::handover::{Command, SpanOutcome, WeakWork};
use crate::span_book::{SpanBook, SpanLimits};

/// So often requests may go unanswered in a row, a deadline apart, before the server is left: it may
/// still answer pings while its engine hangs. No setting, since how long
/// that is follows from `actor.span_deadline_ms`.
const SILENCES_MAX: u32 = 3;

/// What the weak source needs to know of its process.
pub struct WeakSourceSettings {
    pub channel: ChannelSettings,
    pub limits: SpanLimits,
    /// `actor.weak_outbox_messages`; also of what waits for room there.
    pub outbox_messages: usize,
    /// For the hello, and to spread actors over servers.
    pub actor: String,
    pub index: u32,
    /// The strong tokenizer's fingerprint.
    pub tokenizer: Hash,
    /// What ends a text here.
    pub stops: Vec<TokenId>,
}

pub struct WeakSource {
    settings: WeakSourceSettings,
    directives: watch::Receiver<Directive>,
    work: mpsc::Receiver<WeakWork>,
    engine: mpsc::Sender<Command>,
    book: SpanBook,
    stream: Option<Stream>,
    /// Lines that failed or broke since the last reply; a line alone shows no server that works.
    failures: u32,
    /// All such lines, so that after each the next server is tried.
    failures_ever: usize,
    /// Where the last one failed.
    failed_at: Option<String>,
    connect_at: Instant,
}

struct Stream {
    address: String,
    outbox: WeakOutbox,
    inbox: WeakInbox,
    /// Messages that the outbox has no room for yet.
    unsent: VecDeque<WeakMessage>,
}

enum Event {
    Work(Option<WeakWork>),
    Replies(Result<Option<Vec<SpanReply>>, RpcError>),
    Sent(Result<(), RpcError>),
    Time,
}

impl WeakSource {
    #[must_use]
    pub fn new(
        settings: WeakSourceSettings,
        directives: watch::Receiver<Directive>,
        work: mpsc::Receiver<WeakWork>,
        engine: mpsc::Sender<Command>,
    ) -> Self {
        let book = SpanBook::new(settings.limits);
        let connect_at = Instant::now();
        Self {
            settings,
            directives,
            work,
            engine,
            book,
            stream: None,
            failures: 0,
            failures_ever: 0,
            failed_at: None,
            connect_at,
        }
    }

    /// Until the shutdown, which abandons what is asked for, or until the engine is gone.
    ///
    /// # Errors
    /// A weak server that refuses this actor's models. What a retry may mend ends in the outcomes
    /// of the spans.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let stop = shutdown.wait();
        tokio::select! {
            () = stop => Ok(()),
            outcome = self.converse() => outcome,
        }
    }

    async fn converse(&mut self) -> anyhow::Result<()> {
        let mut waits = None;
        loop {
            match self.book.is_idle() {
                true => waits = None,
                false if waits.is_none() => waits = Some(waiting("weak spans", None)),
                false => {}
            }
            self.go_home();
            if self.stream.is_none() && !self.book.is_idle() && self.connect_at <= Instant::now() {
                self.connect().await?;
            }
            self.queue_due();
            let outcomes = match self.next_event().await {
                Event::Work(None) => return Ok(()),
                Event::Work(Some(work)) => {
                    self.take(work);
                    Vec::new()
                }
                Event::Replies(Ok(Some(replies))) => self.read(replies),
                Event::Replies(Ok(None)) => self.break_off("the server closed the stream"),
                Event::Replies(Err(error)) => self.break_off(&error.to_string()),
                Event::Sent(Ok(())) => {
                    if let Some(stream) = &mut self.stream {
                        stream.unsent.pop_front();
                    }
                    Vec::new()
                }
                Event::Sent(Err(error)) => self.break_off(&error.to_string()),
                Event::Time => Vec::new(),
            };
            let expired = self.book.expire(Instant::now());
            let mut outcomes: Vec<SpanOutcome> = outcomes.into_iter().chain(expired).collect();
            if self.stream.is_some() && self.book.silences() >= SILENCES_MAX {
                outcomes.extend(self.break_off("it has answered nothing for too long"));
            }
            let sent = match outcomes.is_empty() {
                true => Ok(()),
                // Those that are still waited for have got on as well.
                false => {
                    waits = None;
                    self.engine.send(Command::Spans(outcomes)).await
                }
            };
            if sent.is_err() {
                return Ok(());
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let wake = self.wake();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        let (send, replies) = match &mut self.stream {
            Some(Stream { outbox, inbox, unsent, .. }) => {
                let message = unsent.front().cloned();
                let send = async move {
                    match message {
                        Some(message) => outbox.send(message).await,
                        None => pending().await,
                    }
                };
                (Some(send), Some(inbox.next()))
            }
            None => (None, None),
        };
        tokio::select! {
            sent = or_never(send) => Event::Sent(sent),
            replies = or_never(replies) => Event::Replies(replies),
            work = self.work.recv() => Event::Work(work),
            () = timer => Event::Time,
        }
    }

    fn wake(&self) -> Option<Instant> {
        let connect = (self.stream.is_none() && !self.book.is_idle()).then_some(self.connect_at);
        [connect, self.book.next_event(self.can_send())].into_iter().flatten().min()
    }

    /// Otherwise what is due waits in the book.
    fn can_send(&self) -> bool {
        let room = |stream: &Stream| stream.unsent.len() < self.settings.outbox_messages;
        self.stream.as_ref().is_some_and(room)
    }

    /// All that is there: the spans of several ticks go in one message.
    fn take(&mut self, first: WeakWork) {
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                WeakWork::Ask(asks) => {
                    let now = Instant::now();
                    asks.into_iter().for_each(|ask| self.book.ask(ask, now));
                }
                WeakWork::Close(rollouts) => {
                    rollouts.into_iter().for_each(|rollout| self.book.close(rollout));
                }
            }
            next = self.work.try_recv().ok();
        }
    }

    fn read(&mut self, replies: Vec<SpanReply>) -> Vec<SpanOutcome> {
        let now = Instant::now();
        self.failures = 0;
        replies.into_iter().filter_map(|reply| self.book.reply(reply, now)).collect()
    }

    fn queue_due(&mut self) {
        if !self.can_send() {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        let spans = self.book.due(Instant::now());
        if !spans.is_empty() {
            stream.unsent.push_back(WeakMessage::Spans(spans));
        }
        let closing = self.book.take_closing();
        if !closing.is_empty() {
            stream.unsent.push_back(WeakMessage::Close(closing));
        }
    }

    fn break_off(&mut self, reason: &str) -> Vec<SpanOutcome> {
        warn!(reason, "lost the weak server");
        self.failed_at = self.stream.take().map(|stream| stream.address);
        self.put_off();
        self.book.stream_lost(Instant::now())
    }

    /// Back to the server of its place, once that is there again and nothing is under way.
    fn go_home(&mut self) {
        let Some(stream) = &self.stream else { return };
        let home = self.home();
        let elsewhere = home.as_ref().is_some_and(|home| *home != stream.address);
        if elsewhere && home != self.failed_at && self.book.is_idle() {
            info!(from = stream.address, to = home, "goes back to its own weak server");
            self.stream = None;
            // Nothing was asked for, so that nothing comes of it.
            let _ = self.book.stream_lost(Instant::now());
        }
    }

    /// Actors are spread over the servers by their places.
    fn home(&self) -> Option<String> {
        let servers = &self.directives.borrow().weak_servers;
        servers.get((self.settings.index as usize).checked_rem(servers.len())?).cloned()
    }

    async fn connect(&mut self) -> anyhow::Result<()> {
        let home = self.home().filter(|home| Some(home) != self.failed_at.as_ref());
        let Some(address) = home.or_else(|| self.another()) else {
            warn!("no weak server has joined the run yet, will look again");
            self.put_off();
            return Ok(());
        };
        match self.open(&address).await {
            Ok(stream) => self.stream = Some(stream),
            Err(error) if is_refusal(&error) => {
                return Err(error.context("the weak server refuses this actor"));
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(address, error, "no stream to a weak server, will try again");
                self.failed_at = Some(address);
                self.put_off();
            }
        }
        Ok(())
    }

    fn put_off(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.failures_ever = self.failures_ever.wrapping_add(1);
        let policy = RetryPolicy {
            attempts: u32::MAX,
            first_delay: Duration::from_millis(20),
            delay_max: Duration::from_secs(1),
            seed: u64::from(self.settings.index),
            ..RetryPolicy::default()
        };
        let delay = policy.delay_after(self.failures.min(16)).unwrap_or_default();
        self.connect_at = Instant::now() + delay;
    }

    /// The next one after each failure.
    fn another(&self) -> Option<String> {
        let servers = &self.directives.borrow().weak_servers;
        let turn = (self.settings.index as usize).wrapping_add(self.failures_ever);
        servers.get(turn.checked_rem(servers.len())?).cloned()
    }

    async fn open(&self, address: &str) -> anyhow::Result<Stream> {
        let channel = proto::connect(address, &self.settings.channel).await?;
        let mut client = WeakClient::new(channel, &self.settings.channel);
        let actor = self.settings.actor.clone();
        let (tokenizer, stops) = (self.settings.tokenizer, self.settings.stops.clone());
        let hello = WeakMessage::Hello { actor, tokenizer, stops };
        let (outbox, inbox) = client.converse(hello, self.settings.outbox_messages).await?;
        info!(address, "connected to a weak server");
        Ok(Stream { address: address.to_owned(), outbox, inbox, unsent: VecDeque::new() })
    }
}

/// No other try would be answered differently.
fn is_refusal(error: &anyhow::Error) -> bool {
    let refusals = [ErrorCode::Invalid, ErrorCode::Unauthenticated];
    error.downcast_ref::<RpcError>().is_some_and(|error| refusals.contains(&error.code))
}

async fn or_never<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
