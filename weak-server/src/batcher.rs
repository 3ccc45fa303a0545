//! Forms every forward out of all requests of all actors, and turns logits into replies. Pure: time
//! and logits are arguments. Transport, threads and the cache itself live elsewhere.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use model::{Draw, SampleError, Sampled, Want};
use proto::{SpanFailure, SpanFault, SpanReply, SpanRequest};
use types::{SessionId, TokenId};

use crate::job::{Computed, Job, Progress, SpanStop};
use crate::pace::Pace;
use crate::sessions::{SessionKey, SessionTable, StreamId};
use crate::text::{Appended, Mark, Rulebook, SessionText};

/// The bounds, from the section `weak_server`.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub sessions: usize,
    pub batch_rows: usize,
    pub batch_tokens: usize,
    pub queue_requests: usize,
}

/// New tokens for one row of the cache, of which only the first `keep` tokens hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowStep {
    pub row: usize,
    pub keep: usize,
    pub tokens: Vec<TokenId>,
    pub want: Want,
}

/// What came of one pick.
pub type Outcome = Result<Sampled, SampleError>;

/// A reply and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub stream: StreamId,
    pub reply: SpanReply,
    /// Why the span is no longer, where there is one.
    pub stop: Option<SpanStop>,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub computed: Computed,
    pub evictions: u64,
}

struct Waiting {
    key: SessionKey,
    request: SpanRequest,
    received: Instant,
}

/// The forward in hand.
struct Formed {
    at: Instant,
    tokens: usize,
    /// The longest of the requests that it is for.
    deadline: Duration,
}

/// All sessions and requests of the server.
pub struct Batcher {
    limits: BatchLimits,
    pace: Pace,
    formed: Option<Formed>,
    book: Rulebook,
    table: SessionTable,
    waiting: VecDeque<Waiting>,
    jobs: Vec<Job>,
    answers: Vec<Answer>,
    counts: Counts,
}

impl Batcher {
    #[must_use]
    pub fn new(limits: BatchLimits, book: Rulebook) -> Self {
        Self {
            limits,
            pace: Pace::new(limits.batch_rows, limits.batch_tokens),
            formed: None,
            book,
            table: SessionTable::new(limits.sessions),
            waiting: VecDeque::new(),
            jobs: Vec::new(),
            answers: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Takes a request; one that finds the queue full is answered at once.
    pub fn enqueue(&mut self, stream: StreamId, request: SpanRequest, received: Instant) {
        let key = SessionKey { stream, session: request.session };
        if self.waiting.len() >= self.limits.queue_requests {
            let limit = self.limits.queue_requests;
            let reason = format!(
                "{limit} requests wait already: repeat it later or raise weak_server.queue_requests"
            );
            return self.refuse(key, SpanFault::Overloaded, reason);
        }
        self.waiting.push_back(Waiting { key, request, received });
    }

    /// Forgets sessions and what is asked of them, without a reply.
    pub fn close(&mut self, stream: StreamId, sessions: &[SessionId]) {
        for session in sessions {
            let key = SessionKey { stream, session: *session };
            self.waiting.retain(|waiting| waiting.key != key);
            self.jobs.retain(|job| job.key != key);
            self.table.close(key);
        }
    }

    /// Forgets everything of a stream.
    pub fn close_stream(&mut self, stream: StreamId) {
        self.waiting.retain(|waiting| waiting.key.stream != stream);
        self.jobs.retain(|job| job.key.stream != stream);
        self.answers.retain(|answer| answer.stream != stream);
        self.table.close_stream(stream);
    }

    /// The next forward: rows in hand advance, waiting requests join. Empty when there is nothing
    /// to compute. [`Self::absorb`] must follow.
    pub fn form(&mut self, now: Instant) -> Vec<RowStep> {
        self.expire(now);
        self.admit(now);
        let (table, most) = (&self.table, self.pace.tokens());
        let mut left = most;
        let behind = (0..self.jobs.len()).rev();
        let steps = self.jobs.iter_mut().zip(behind).map(|(job, behind)| {
            let text = table.text(job.key).expect("a session in the batch is not evicted");
            let row = table.row(job.key).expect("a session has a row");
            // A long text leaves every row behind it one token, so that spans go on beside it.
            let (tokens, want) = job.plan(text, left.saturating_sub(behind).max(left.min(1)));
            left -= tokens.len();
            RowStep { row, keep: tokens.start, tokens: text.tokens()[tokens].to_vec(), want }
        });
        let steps = steps.filter(|step| !step.tokens.is_empty()).collect();
        let deadline = self.jobs.iter().map(Job::limit).max();
        self.formed = deadline.map(|deadline| Formed { at: now, tokens: most - left, deadline });
        steps
    }

    /// What is wanted of the logits of the forward last formed.
    #[must_use]
    pub fn picks(&self) -> Vec<Draw<'_>> {
        let (mut picks, mut row) = (Vec::new(), 0);
        for job in &self.jobs {
            let text = self.table.text(job.key).expect("a session in the batch is not evicted");
            job.picks(text, row, &mut picks);
            row += job.logit_rows();
        }
        picks
    }

    /// Takes what came of [`Self::picks`], in their order.
    ///
    /// # Errors
    /// Logits that are no numbers: the weights are broken.
    pub fn absorb(&mut self, drawn: Vec<Outcome>, now: Instant) -> Result<(), SampleError> {
        if let Some(Formed { at, tokens, deadline }) = self.formed.take() {
            self.pace.took(tokens, now.saturating_duration_since(at), deadline);
        }
        let mut rest = drawn.into_iter();
        for mut job in std::mem::take(&mut self.jobs) {
            let text = self.table.text_mut(job.key).expect("a session in the batch stays");
            let own: Vec<Outcome> = rest.by_ref().take(job.pick_count(text)).collect();
            job.count(text, &mut self.counts.computed);
            match job.absorb(text, own) {
                Ok(Progress::More) => self.jobs.push(job),
                Ok(Progress::Done(stop)) => self.finish(job, stop, now),
                Err(broken @ SampleError::Logit { .. }) => return Err(broken),
                Err(error) => self.fail(job, SpanFault::Invalid, error.to_string()),
            }
        }
        debug_assert!(rest.next().is_none(), "every pick belongs to a job");
        Ok(())
    }

    /// Replies that are due.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Nothing waits and nothing is in hand.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.jobs.is_empty()
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn sessions(&self) -> usize {
        self.table.len()
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn expire(&mut self, now: Instant) {
        let late = |deadline: Instant| deadline <= now;
        let (expired, jobs) = take_where(&mut self.jobs, |job| late(job.deadline));
        self.jobs = jobs;
        for job in expired {
            if job.has_written() {
                // What is written stays written: the next request goes on from there.
                self.finish(job, Some(SpanStop::Deadline), now);
            } else {
                let reason = too_late(job.limit(), "computed");
                self.fail(job, SpanFault::Deadline, reason);
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        for waiting in waiting {
            let limit = waiting.request.deadline;
            if late(waiting.received + limit) {
                self.refuse(waiting.key, SpanFault::Deadline, too_late(limit, "waiting"));
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    fn admit(&mut self, now: Instant) {
        // What is asked of one session is done in order.
        let mut held = HashSet::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let key = waiting.key;
            let full = self.jobs.len() >= self.limits.batch_rows;
            let no_row = waiting.request.open.is_some() && !self.table.has_room(key);
            if full || no_row || held.contains(&key) || self.table.in_batch(key) {
                held.insert(key);
                self.waiting.push_back(waiting);
            } else {
                self.start(waiting, now);
            }
        }
    }

    fn start(&mut self, waiting: Waiting, now: Instant) {
        let Waiting { key, request, received } = waiting;
        let mark = match self.extend(key, &request) {
            Ok(mark) => mark,
            Err(failure) => return self.refuse(key, failure.fault, failure.reason),
        };
        let job = Job::new(key, &request, mark, received, now);
        if job.is_empty() {
            self.finish(job, None, now);
        } else {
            self.table.touch(key, true);
            self.jobs.push(job);
        }
    }

    /// Brings the session's text up to date with the request, or leaves it as it is.
    fn extend(&mut self, key: SessionKey, request: &SpanRequest) -> Result<Mark, SpanFailure> {
        let Some(open) = &request.open else {
            let Some(known) = self.table.text_mut(key) else {
                let reason = format!(
                    "session {} is not kept here (any more): resend it with its opening and the \
                     whole response",
                    key.session
                );
                return Err(SpanFailure { fault: SpanFault::UnknownSession, reason });
            };
            known.check_prefix(request.from, request.prefix_hash).map_err(other_text)?;
            let mark = known.mark();
            known.append(&request.append, Appended::Strong).map_err(invalid)?;
            if let Err(reason) = check_turn(known, request) {
                known.rewind(mark);
                return Err(invalid(reason));
            }
            return Ok(mark);
        };
        if request.from != 0 {
            let reason = format!("an opening request starts at 0, not at {}", request.from);
            return Err(invalid(reason));
        }
        let mut text = SessionText::open(open, &self.book).map_err(invalid)?;
        let mark = text.mark();
        text.append(&request.append, Appended::Replay).map_err(invalid)?;
        check_turn(&text, request).map_err(invalid)?;
        if let Some(old) = self.table.text(key) {
            text.reuse_prompt_of(old);
        }
        let evicted = self.table.place(key, text);
        self.counts.evictions += u64::from(evicted.is_some());
        Ok(mark)
    }

    fn finish(&mut self, job: Job, stop: Option<SpanStop>, now: Instant) {
        let SessionKey { stream, session } = job.key;
        self.table.touch(job.key, false);
        let reply = SpanReply { session, result: Ok(job.finish(now)) };
        self.answers.push(Answer { stream, reply, stop });
    }

    /// Ends a job without a result; its session is as it was before the request.
    fn fail(&mut self, job: Job, fault: SpanFault, reason: String) {
        let key = job.key;
        self.table.touch(key, false);
        if let Some(text) = self.table.text_mut(key) {
            text.rewind(job.mark);
        }
        self.refuse(key, fault, reason);
    }

    fn refuse(&mut self, key: SessionKey, fault: SpanFault, reason: String) {
        let SessionKey { stream, session } = key;
        let reply = SpanReply { session, result: Err(SpanFailure { fault, reason }) };
        self.answers.push(Answer { stream, reply, stop: None });
    }
}

fn check_turn(text: &SessionText, request: &SpanRequest) -> Result<(), String> {
    if request.want_span { text.check_turn() } else { Ok(()) }
}

fn invalid(reason: String) -> SpanFailure {
    SpanFailure { fault: SpanFault::Invalid, reason }
}

fn other_text(reason: String) -> SpanFailure {
    SpanFailure { fault: SpanFault::Prefix, reason }
}

fn too_late(limit: Duration, stage: &str) -> String {
    format!(
        "the deadline of {} ms passed while the request was {stage}: allow more time \
         (actor.span_deadline_ms) or start more weak servers",
        limit.as_millis()
    )
}

/// Splits off what `picked` says.
fn take_where<T>(all: &mut Vec<T>, picked: impl Fn(&T) -> bool) -> (Vec<T>, Vec<T>) {
    std::mem::take(all).into_iter().partition(picked)
}

#[cfg(test)]
mod tests;
