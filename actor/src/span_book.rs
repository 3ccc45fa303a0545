//! The weak spans that are asked for and not yet written: what to send, what a reply or a fault
//! means, when to give up. Pure: `now` is an argument and nothing is sent here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::{SpanFault, SpanReply, SpanRequest, SpanWritten};
use runtime::RetryPolicy;
use types::SessionId;

use crate::handover::{RolloutId, SpanAsk, SpanOutcome, SpanTaken};
use crate::metrics::SPAN_RETRIES;

/// How long and how often a span is asked for.
#[derive(Clone, Copy, Debug)]
pub struct SpanLimits {
    /// `actor.span_deadline_ms`
    pub deadline: Duration,
    /// `actor.span_retries_max`
    pub retries_max: u32,
}

/// All spans of one actor. Lives through any number of streams to weak servers.
pub struct SpanBook {
    limits: SpanLimits,
    asked: BTreeMap<RolloutId, Asked>,
    /// Sessions of the current stream.
    sessions: BTreeMap<RolloutId, SessionId>,
    rollouts: BTreeMap<SessionId, RolloutId>,
    next_session: u64,
    /// Sessions that the weak server may forget.
    closing: Vec<SessionId>,
    silences: Silences,
}

/// How often requests went unanswered since the stream's last reply, a deadline apart: what was
/// asked for within one deadline falls silent together.
#[derive(Clone, Copy, Debug, Default)]
struct Silences {
    count: u32,
    last: Option<Instant>,
}

/// One span that is asked for.
struct Asked {
    ask: SpanAsk,
    asked_at: Instant,
    /// Requests so far.
    sent: u32,
    /// Those of them that count against `actor.span_retries_max`.
    faults: u32,
    last: Option<Repeat>,
    /// The next request must open the session and carry the whole response.
    whole: bool,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Ready { not_before: Instant },
    Sent { silent_at: Instant, from: u32, appended: usize },
}

/// Why a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    UnknownSession,
    Prefix,
    Overloaded,
    Deadline,
    /// No answer in time.
    Silence,
    /// The stream broke.
    Stream,
}

impl Repeat {
    fn name(self) -> &'static str {
        match self {
            Self::UnknownSession => "unknown_session",
            Self::Prefix => "prefix",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Silence => "silence",
            Self::Stream => "stream",
        }
    }

    /// A busy server has not looked at the request: only the patience for all tries ends that.
    fn is_fault(self) -> bool {
        self != Self::Overloaded
    }

    /// The fault says nothing about how busy the server is.
    fn at_once(self) -> bool {
        matches!(self, Self::UnknownSession | Self::Prefix | Self::Stream)
    }
}

impl SpanBook {
    #[must_use]
    pub fn new(limits: SpanLimits) -> Self {
        Self {
            limits,
            asked: BTreeMap::new(),
            sessions: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            next_session: 0,
            closing: Vec::new(),
            silences: Silences::default(),
        }
    }

    pub fn ask(&mut self, ask: SpanAsk, now: Instant) {
        let step = Step::Ready { not_before: now };
        let rollout = ask.rollout;
        let asked =
            Asked { ask, asked_at: now, sent: 0, faults: 0, last: None, whole: false, step };
        self.asked.insert(rollout, asked);
    }

    /// The rollout is over or given up; a reply that still comes is passed over.
    pub fn close(&mut self, rollout: RolloutId) {
        self.asked.remove(&rollout);
        self.end_session(rollout);
    }

    /// No span is asked for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Requests to send now, on the current stream.
    pub fn due(&mut self, now: Instant) -> Vec<SpanRequest> {
        let mut requests = Vec::new();
        for (rollout, asked) in &mut self.asked {
            let ready = matches!(asked.step, Step::Ready { not_before } if not_before <= now);
            if !ready || asked.ask.until <= now {
                continue;
            }
            let (session, whole) = match self.sessions.get(rollout) {
                Some(session) => (*session, asked.whole),
                None => {
                    let session = SessionId(self.next_session);
                    self.next_session += 1;
                    self.sessions.insert(*rollout, session);
                    self.rollouts.insert(session, *rollout);
                    (session, true)
                }
            };
            let SpanAsk { open, known, response, until, .. } = &asked.ask;
            let deadline = self.limits.deadline.min(until.saturating_duration_since(now));
            let from = if whole { 0 } else { *known };
            let (prefix, append) = response.split_at(from as usize);
            requests.push(SpanRequest {
                session,
                open: whole.then(|| (**open).clone()),
                from,
                prefix_hash: SpanRequest::hash_prefix(&open.prompt, prefix),
                append: append.to_vec(),
                want_span: true,
                deadline,
            });
            asked.sent += 1;
            // The server's own answer that it is late deserves time to arrive.
            let silent_at = now + deadline + deadline / 4;
            asked.step = Step::Sent { silent_at, from, appended: append.len() };
        }
        requests
    }

    /// Sessions to close on the current stream.
    pub fn take_closing(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.closing)
    }

    /// What a reply settles, if anything.
    pub fn reply(&mut self, reply: SpanReply, now: Instant) -> Option<SpanOutcome> {
        self.silences = Silences::default();
        let rollout = *self.rollouts.get(&reply.session)?;
        let asked = self.asked.get(&rollout)?;
        let Step::Sent { from, appended, .. } = asked.step else { return None };
        match reply.result {
            Ok(written) => {
                let result = asked.taken((from, appended), written, now);
                self.asked.remove(&rollout);
                Some(SpanOutcome { rollout, result })
            }
            Err(failure) => {
                let repeat = match failure.fault {
                    SpanFault::UnknownSession => Repeat::UnknownSession,
                    SpanFault::Prefix => Repeat::Prefix,
                    SpanFault::Overloaded => Repeat::Overloaded,
                    SpanFault::Deadline => Repeat::Deadline,
                    SpanFault::Invalid => return Some(self.give_up(rollout, failure.to_string())),
                };
                self.repeat(rollout, repeat, now)
            }
        }
    }

    /// Every session of the stream is gone with it.
    pub fn stream_lost(&mut self, now: Instant) -> Vec<SpanOutcome> {
        self.sessions.clear();
        self.rollouts.clear();
        self.closing.clear();
        self.silences = Silences::default();
        let sent = |asked: &Asked| matches!(asked.step, Step::Sent { .. });
        let lost = self.asked.iter().filter(|(_, asked)| sent(asked));
        let lost: Vec<RolloutId> = lost.map(|(rollout, _)| *rollout).collect();
        lost.into_iter().filter_map(|rollout| self.repeat(rollout, Repeat::Stream, now)).collect()
    }

    /// Requests without an answer are repeated on fresh sessions, so that a late reply cannot be
    /// taken for another span's; what waited too long altogether is given up. An ask whose lease has
    /// ended is only forgotten: its group is given up where leases are kept.
    pub fn expire(&mut self, now: Instant) -> Vec<SpanOutcome> {
        let (mut outcomes, mut silent) = (Vec::new(), false);
        let rollouts: Vec<RolloutId> = self.asked.keys().copied().collect();
        for rollout in rollouts {
            let asked = &self.asked[&rollout];
            match asked.step {
                Step::Ready { .. } if asked.ask.until <= now => {
                    self.asked.remove(&rollout);
                }
                Step::Sent { silent_at, .. } if silent_at <= now => {
                    silent |= asked.ask.until > now;
                    self.end_session(rollout);
                    outcomes.extend(self.repeat(rollout, Repeat::Silence, now));
                }
                Step::Ready { .. } if asked.patience_ends(self.limits) <= now => {
                    let waited = now.saturating_duration_since(asked.asked_at).as_millis();
                    let detail = match asked.last {
                        None | Some(Repeat::Stream) => {
                            format!("no weak server could be reached within {waited} ms")
                        }
                        Some(last) => {
                            let name = last.name();
                            format!("weak span given up after {waited} ms, last: {name}")
                        }
                    };
                    outcomes.push(self.give_up(rollout, detail));
                }
                Step::Sent { .. } | Step::Ready { .. } => {}
            }
        }
        let Silences { count, last } = self.silences;
        if silent && last.is_none_or(|last| last + self.limits.deadline <= now) {
            self.silences = Silences { count: count + 1, last: Some(now) };
        }
        outcomes
    }

    /// How often requests have gone unanswered, a deadline apart and with no reply to any other in
    /// between. A server that works answers in time, if only that it is late.
    #[must_use]
    pub fn silences(&self) -> u32 {
        self.silences.count
    }

    /// When something has to be done next, without news from outside. What is ready to be sent
    /// counts only where it `can_send`.
    #[must_use]
    pub fn next_event(&self, can_send: bool) -> Option<Instant> {
        let event = |asked: &Asked| match asked.step {
            Step::Sent { silent_at, .. } => silent_at,
            Step::Ready { not_before } if can_send => not_before,
            Step::Ready { .. } => asked.patience_ends(self.limits),
        };
        self.asked.values().map(event).min()
    }

    fn repeat(&mut self, rollout: RolloutId, repeat: Repeat, now: Instant) -> Option<SpanOutcome> {
        let retries_max = self.limits.retries_max;
        let asked = self.asked.get_mut(&rollout)?;
        asked.faults += u32::from(repeat.is_fault());
        asked.last = Some(repeat);
        if asked.faults > retries_max {
            let name = repeat.name();
            let detail = format!("weak span given up after {retries_max} retries, last: {name}");
            return Some(self.give_up(rollout, detail));
        }
        // An overloaded server has not looked at the request; after any other fault it is not
        // known what the session holds.
        asked.whole |= repeat != Repeat::Overloaded;
        let delay = match repeat.at_once() && asked.sent <= 1 {
            true => Duration::ZERO,
            false => backoff(rollout).delay_after(asked.sent).unwrap_or_default(),
        };
        asked.step = Step::Ready { not_before: now + delay };
        SPAN_RETRIES.increment(1, &[("fault", repeat.name())]);
        None
    }

    fn give_up(&mut self, rollout: RolloutId, detail: String) -> SpanOutcome {
        self.asked.remove(&rollout);
        SpanOutcome { rollout, result: Err(detail) }
    }

    fn end_session(&mut self, rollout: RolloutId) {
        if let Some(session) = self.sessions.remove(&rollout) {
            self.rollouts.remove(&session);
            self.closing.push(session);
        }
    }
}

impl Asked {
    /// What the answer to a request from response position `from` on with `appended` tokens means.
    fn taken(
        &self,
        (from, appended): (u32, usize),
        written: SpanWritten,
        now: Instant,
    ) -> Result<SpanTaken, String> {
        let found = written.append_logprobs.len();
        if found != appended {
            return Err(format!(
                "the weak server sent {found} log-probabilities for {appended} appended tokens"
            ));
        }
        let latency = now.saturating_duration_since(self.asked_at);
        Ok(SpanTaken { from, written, latency, retries: self.sent.saturating_sub(1) })
    }

    /// All tries together take no longer than this, nor than the rollout's lease.
    fn patience_ends(&self, limits: SpanLimits) -> Instant {
        let patience = limits.deadline * (limits.retries_max + 1);
        (self.asked_at + patience).min(self.ask.until)
    }
}

fn backoff(rollout: RolloutId) -> RetryPolicy {
    RetryPolicy {
        attempts: u32::MAX,
        first_delay: Duration::from_millis(10),
        delay_max: Duration::from_secs(1),
        seed: rollout.0,
        ..RetryPolicy::default()
    }
}

#[cfg(test)]
mod tests;
