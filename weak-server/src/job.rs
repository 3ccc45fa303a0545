//! One request while it is computed: which tokens its row needs next, and what to do with their
//! logits. Pure; forming batches out of jobs is the batcher's.

use std::ops::Range;
use std::time::{Duration, Instant};

use model::{Draw, Pick, SampleError, Want};
use proto::{SpanRequest, SpanWritten};
use types::{SpanEnd, TokenId};

use crate::batcher::Outcome;
use crate::sessions::SessionKey;
use crate::text::{Mark, SessionText};

/// Tokens that went through the model, by what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Computed {
    pub prompt: u64,
    /// Strong tokens, and the weak one that the last span ended with.
    pub ingest: u64,
    /// Weak tokens within their span.
    pub sample: u64,
}

pub(crate) struct Job {
    pub(crate) key: SessionKey,
    pub(crate) deadline: Instant,
    /// The text before this request.
    pub(crate) mark: Mark,
    received: Instant,
    admitted: Instant,
    /// Tokens that precede the appended ones, prompt included.
    before: usize,
    appended: usize,
    want_span: bool,
    step: Step,
    written: SpanWritten,
}

/// Why a span is no longer than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanStop {
    /// The weak model's turn, or the text, is over.
    Ended(SpanEnd),
    /// The request's deadline cut it short: the turn is still the weak model's.
    Deadline,
}

/// What the forward in hand computes of a row.
#[derive(Clone, Debug)]
struct Step {
    tokens: Range<usize>,
    want: Want,
}

/// Where a job stands after a forward.
pub(crate) enum Progress {
    More,
    Done(Option<SpanStop>),
}

impl Job {
    /// `request` is already part of the text; `mark` is from before.
    pub(crate) fn new(
        key: SessionKey,
        request: &SpanRequest,
        mark: Mark,
        received: Instant,
        admitted: Instant,
    ) -> Self {
        let before = mark.tokens();
        Self {
            key,
            deadline: received + request.deadline,
            mark,
            received,
            admitted,
            before,
            appended: request.append.len(),
            want_span: request.want_span,
            step: Step { tokens: 0..0, want: Want::Nothing },
            written: SpanWritten::default(),
        }
    }

    /// Nothing has to be computed.
    pub(crate) fn is_empty(&self) -> bool {
        self.appended == 0 && !self.want_span
    }

    /// Chooses the next tokens of the row, at most `tokens_max`. Appended tokens are scored by the
    /// logits of the token before each; what precedes those goes in first, so that no logits are
    /// made in vain.
    pub(crate) fn plan(&mut self, text: &SessionText, tokens_max: usize) -> (Range<usize>, Want) {
        let (cached, total) = (text.cached(), text.tokens().len());
        let scored_from = self.before - 1;
        let (whole, want) = if self.all_scored() {
            (total, Want::Last)
        } else if cached < scored_from {
            (scored_from, Want::Nothing)
        } else {
            (if self.want_span { total } else { total - 1 }, Want::All)
        };
        let end = whole.min(cached + tokens_max);
        let want = match want {
            // The last token is not among these.
            Want::Last if end < whole => Want::Nothing,
            _ if end == cached => Want::Nothing,
            want => want,
        };
        self.step = Step { tokens: cached..end, want };
        (cached..end, want)
    }

    /// The next deadline finds something to answer with.
    pub(crate) fn has_written(&self) -> bool {
        !self.written.tokens.is_empty()
    }

    fn all_scored(&self) -> bool {
        self.written.append_logprobs.len() == self.appended
    }

    /// Rows of logits that the planned step yields.
    pub(crate) fn logit_rows(&self) -> usize {
        match self.step.want {
            Want::Nothing => 0,
            Want::Last => 1,
            Want::All => self.step.tokens.len(),
        }
    }

    pub(crate) fn count(&self, text: &SessionText, counts: &mut Computed) {
        let Range { start, end } = self.step.tokens;
        let prompt = end.min(text.prompt_len()).saturating_sub(start);
        let response = (end - start - prompt) as u64;
        counts.prompt += prompt as u64;
        *(if self.has_written() { &mut counts.sample } else { &mut counts.ingest }) += response;
    }

    /// Tokens that the planned step's logits score.
    fn scored<'a>(&self, text: &'a SessionText) -> &'a [TokenId] {
        let following = &text.tokens()[self.step.tokens.start + 1..];
        match self.step.want {
            Want::All => &following[..following.len().min(self.logit_rows())],
            Want::Last | Want::Nothing => &[],
        }
    }

    /// The planned step's last logits are those that the next token of a span is drawn from.
    fn draws(&self, text: &SessionText) -> bool {
        let wanted = self.want_span && self.step.want != Want::Nothing;
        wanted && self.step.tokens.end == text.tokens().len()
    }

    pub(crate) fn pick_count(&self, text: &SessionText) -> usize {
        match self.step.want {
            Want::Nothing => 0,
            Want::Last | Want::All => self.scored(text).len() + usize::from(self.draws(text)),
        }
    }

    /// Adds what is wanted of the planned step's logits, the first of which are in `row`.
    pub(crate) fn picks<'a>(&self, text: &'a SessionText, row: usize, to: &mut Vec<Draw<'a>>) {
        if self.step.want == Want::Nothing {
            return;
        }
        let settings = text.scoring();
        let scored = self.scored(text).iter().enumerate();
        to.extend(scored.map(|(i, token)| Draw {
            row: row + i,
            settings,
            pick: Pick::Score(*token),
        }));
        if self.draws(text) {
            let (row, settings) = (row + self.logit_rows() - 1, text.sampling());
            to.push(Draw { row, settings, pick: Pick::Draw(text.uniform()) });
        }
    }

    /// Takes what came of the planned step's picks.
    pub(crate) fn absorb(
        &mut self,
        text: &mut SessionText,
        drawn: Vec<Outcome>,
    ) -> Result<Progress, SampleError> {
        let (scored, draws) = match self.step.want {
            Want::Nothing => (0, false),
            Want::Last | Want::All => (self.scored(text).len(), self.draws(text)),
        };
        text.set_cached(self.step.tokens.end);
        let mut drawn = drawn.into_iter();
        for outcome in drawn.by_ref().take(scored) {
            self.written.append_logprobs.push(outcome?.logprob);
        }
        if self.all_scored() && !self.want_span {
            return Ok(Progress::Done(None));
        }
        if !draws {
            return Ok(Progress::More);
        }
        let drawn = drawn.next().expect("a span is asked for, so a token was drawn")?;
        self.written.tokens.push(drawn.token);
        self.written.logprobs.push(drawn.logprob);
        let end = text.push_written(drawn.token);
        Ok(end.map_or(Progress::More, |end| Progress::Done(Some(SpanStop::Ended(end)))))
    }

    pub(crate) fn finish(self, now: Instant) -> SpanWritten {
        SpanWritten {
            queued: self.admitted.saturating_duration_since(self.received),
            computed: now.saturating_duration_since(self.admitted),
            ..self.written
        }
    }

    pub(crate) fn limit(&self) -> Duration {
        self.deadline.saturating_duration_since(self.received)
    }
}
