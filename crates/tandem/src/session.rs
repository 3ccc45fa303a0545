//! One rollout from its prompt to its last token. It says whose turn it is and takes what was
//! written; sampling, transport, time and grading are the caller's.

use std::sync::Arc;

use types::{
    Author, Finish, PolicyVersion, Rollout, RolloutError, RolloutParts, SampleIndex, Sampling,
    Span, SpanEnd, TokenId, Verdict, is_sampled_logprob,
};

use crate::authors::AuthorMismatch;
use crate::{AuthorRule, Authors, Boundary, RandomKey};

/// Everything that is settled before the first token.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub rule: Arc<AuthorRule>,
    pub key: RandomKey,
    /// As the strong model's template renders it.
    pub prompt: Vec<TokenId>,
    pub sampling: Sampling,
    /// Union of both models' stop sets; the first is the canonical one, as which all are stored.
    pub stops: Vec<TokenId>,
    pub weak_may_end: bool,
    pub sample: SampleIndex,
}

/// Who is to write next. Positions are indices into the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// One token.
    Strong {
        position: u32,
    },
    /// A span of at most `limit` tokens.
    Weak {
        position: u32,
        limit: u32,
    },
    Finished,
}

/// What the weak model wrote in one go.
#[derive(Clone, Copy, Debug)]
pub struct WeakSpan<'a> {
    pub tokens: &'a [TokenId],
    /// Under the weak model's own sampling distribution.
    pub logprobs: &'a [f32],
    /// From the request to the last token.
    pub latency_us: u32,
    /// How often the request was repeated.
    pub retries: u32,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SessionError {
    #[error("a session needs {0}")]
    Plan(&'static str),
    #[error("the rule's limit of {rule} tokens is not the sampling's limit of {sampling}")]
    Limits { rule: u32, sampling: u32 },
    #[error("the rollout already ended after {0} tokens")]
    Finished(u32),
    #[error("the rollout has not ended: {0} tokens so far")]
    Unfinished(u32),
    #[error("token out of turn: {0}")]
    Author(#[from] AuthorMismatch),
    #[error("weak span of {tokens} tokens does not fit {limit}: ask for 1 to {limit}")]
    SpanLength { tokens: usize, limit: u32 },
    #[error("{values} log-probabilities for {tokens} tokens from position {position}")]
    Logprobs { position: u32, tokens: usize, values: usize },
    #[error("log-probability {value} at position {position} is not a finite number at most 0")]
    Logprob { position: u32, value: f32 },
    #[error("position {position}: tokens follow the end of the text")]
    AfterEnd { position: u32 },
    #[error(
        "position {position}: the weak model ended the text, which handoff.weak_may_end forbids"
    )]
    WeakEnd { position: u32 },
    #[error(transparent)]
    Rollout(#[from] RolloutError),
}

/// A rollout being written. After an error it is as it was before the call.
#[derive(Clone, Debug)]
pub struct Session {
    plan: SessionPlan,
    state: Authors,
    tokens: Vec<TokenId>,
    authors: Vec<Author>,
    logprobs: Vec<f32>,
    versions: Vec<PolicyVersion>,
    weak_logprobs: Vec<f32>,
    spans: Vec<Span>,
    finish: Option<Finish>,
}

/// A token as it is written down.
struct Written {
    author: Author,
    token: TokenId,
    logprob: f32,
    version: PolicyVersion,
}

impl Session {
    /// # Errors
    /// A plan without prompt, stop token or room for a token, or with two different limits.
    pub fn new(plan: SessionPlan) -> Result<Self, SessionError> {
        let (rule, sampling) = (plan.rule.max_tokens, plan.sampling.max_tokens);
        if rule != sampling {
            return Err(SessionError::Limits { rule, sampling });
        }
        if sampling == 0 {
            return Err(SessionError::Plan("sampling.max_tokens of at least 1"));
        }
        if plan.prompt.is_empty() {
            return Err(SessionError::Plan("a prompt of at least one token"));
        }
        if plan.stops.is_empty() {
            return Err(SessionError::Plan("at least one stop token"));
        }
        let state = Authors::new(Arc::clone(&plan.rule), plan.key);
        Ok(Self {
            plan,
            state,
            tokens: Vec::new(),
            authors: Vec::new(),
            logprobs: Vec::new(),
            versions: Vec::new(),
            weak_logprobs: Vec::new(),
            spans: Vec::new(),
            finish: None,
        })
    }

    #[must_use]
    pub fn turn(&self) -> Turn {
        let position = self.len();
        match (self.finish, self.state.author()) {
            (Some(_), _) => Turn::Finished,
            (None, Author::Weak) => Turn::Weak { position, limit: self.room() },
            (None, _) => Turn::Strong { position },
        }
    }

    /// # Errors
    /// It is not the strong model's turn, or `logprob` is none.
    pub fn push_strong(
        &mut self,
        token: TokenId,
        logprob: f32,
        version: PolicyVersion,
    ) -> Result<(), SessionError> {
        self.refuse_if_finished()?;
        check_logprob(self.len(), logprob)?;
        let author = Author::Strong;
        let token = self.canonical(token);
        let boundary = self.state.push_by(author, token)?;
        self.write(&Written { author, token, logprob, version }, boundary);
        Ok(())
    }

    /// Takes a span whole or not at all. It may stop short of the author's change, in which case
    /// the turn stays weak, but not go past it.
    ///
    /// # Errors
    /// It is not the weak model's turn throughout; an empty or too long span; tokens after an end
    /// or an end that is forbidden; log-probabilities that do not match.
    pub fn push_weak_span(&mut self, span: WeakSpan<'_>) -> Result<(), SessionError> {
        self.refuse_if_finished()?;
        self.check_weak_span(&span)?;
        for (index, (token, logprob)) in span.tokens.iter().zip(span.logprobs).enumerate() {
            let token = self.canonical(*token);
            let boundary = self.state.push(token);
            let version = PolicyVersion::default();
            self.write(
                &Written { author: Author::Weak, token, logprob: *logprob, version },
                boundary,
            );
            if index == 0 {
                let last = self.spans.last_mut().expect("a span holds the token just written");
                last.latency_us = last.latency_us.saturating_add(span.latency_us);
                last.retries = last.retries.saturating_add(span.retries);
            }
        }
        Ok(())
    }

    /// The weak model's log-probabilities of the tokens from `position` on. Those of its own
    /// tokens are passed over, so that a resent prefix needs no sorting out. NaN is not known.
    ///
    /// # Errors
    /// More values than tokens, or a value above 0.
    pub fn set_weak_logprobs(&mut self, position: u32, values: &[f32]) -> Result<(), SessionError> {
        let start = position as usize;
        let tokens = self.tokens.len().saturating_sub(start);
        if values.len() > tokens {
            return Err(SessionError::Logprobs { position, tokens, values: values.len() });
        }
        // To the weak model a strong token may well be impossible.
        let scored = |value: f32| value.is_nan() || value == f32::NEG_INFINITY;
        for (at, value) in (position..).zip(values).filter(|(_, value)| !scored(**value)) {
            check_logprob(at, *value)?;
        }
        for (index, value) in (start..).zip(values) {
            if self.authors[index] == Author::Strong {
                self.weak_logprobs[index] = *value;
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn plan(&self) -> &SessionPlan {
        &self.plan
    }

    /// All tokens of the response so far.
    #[must_use]
    pub fn response(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The authors of the response so far.
    #[must_use]
    pub fn authors(&self) -> &[Author] {
        &self.authors
    }

    #[must_use]
    pub fn finish_reason(&self) -> Option<Finish> {
        self.finish
    }

    /// The canonical form of a token: one id for all that end the text.
    #[must_use]
    pub fn canonical(&self, token: TokenId) -> TokenId {
        if self.plan.stops.contains(&token) { self.plan.stops[0] } else { token }
    }

    /// # Errors
    /// The rollout has not ended, or its columns do not agree.
    pub fn finish(self, verdict: Verdict) -> Result<Rollout, SessionError> {
        let finish = self.finish.ok_or(SessionError::Unfinished(self.len()))?;
        let prompt_len = self.plan.prompt.len();
        let rollout = Rollout::new(RolloutParts {
            sample: self.plan.sample,
            prompt_len,
            tokens: after(self.plan.prompt, self.tokens),
            authors: after(vec![Author::Prompt; prompt_len], self.authors),
            logprobs: after(vec![0.0; prompt_len], self.logprobs),
            versions: after(vec![PolicyVersion::default(); prompt_len], self.versions),
            weak_logprobs: after(vec![f32::NAN; prompt_len], self.weak_logprobs),
            spans: self.spans,
            finish,
            sampling: self.plan.sampling,
            forced_redraws: self.state.forced_redraws(),
            verdict,
        })?;
        Ok(rollout)
    }

    fn len(&self) -> u32 {
        self.state.position()
    }

    fn room(&self) -> u32 {
        self.plan.rule.max_tokens - self.len()
    }

    fn refuse_if_finished(&self) -> Result<(), SessionError> {
        if self.finish.is_some() { Err(SessionError::Finished(self.len())) } else { Ok(()) }
    }

    fn check_weak_span(&self, span: &WeakSpan<'_>) -> Result<(), SessionError> {
        let (tokens, limit) = (span.tokens.len(), self.room());
        let mut state = self.state.clone();
        if tokens == 0 || tokens > limit as usize {
            return Err(SessionError::SpanLength { tokens, limit });
        }
        if span.logprobs.len() != tokens {
            let (position, values) = (self.len(), span.logprobs.len());
            return Err(SessionError::Logprobs { position, tokens, values });
        }
        for (index, (token, logprob)) in span.tokens.iter().zip(span.logprobs).enumerate() {
            let position = state.position();
            check_logprob(position, *logprob)?;
            state.push_by(Author::Weak, self.canonical(*token))?;
            let is_end = self.plan.stops.contains(token);
            if is_end && !self.plan.weak_may_end {
                return Err(SessionError::WeakEnd { position });
            }
            if (is_end || state.text_is_over()) && index + 1 < tokens {
                return Err(SessionError::AfterEnd { position: position + 1 });
            }
        }
        Ok(())
    }

    /// Notes a token that `self.state` has already taken.
    fn write(&mut self, written: &Written, boundary: Option<Boundary>) {
        let author = written.author;
        self.tokens.push(written.token);
        self.authors.push(author);
        self.logprobs.push(written.logprob);
        self.versions.push(written.version);
        self.weak_logprobs.push(f32::NAN);
        if written.token == self.plan.stops[0] || self.state.text_is_over() {
            self.finish = Some(Finish::End);
        } else if self.room() == 0 {
            self.finish = Some(Finish::Truncated);
        }
        let start = self.len() - 1;
        let end = match (self.finish, boundary) {
            (Some(Finish::End), _) => SpanEnd::End,
            // A span that still grows is overwritten by its next token.
            (Some(Finish::Truncated), _) | (None, None) => SpanEnd::Limit,
            (None, Some(Boundary { forced: true, .. })) => SpanEnd::MaxGap,
            (None, Some(_)) => SpanEnd::Boundary,
        };
        match self.spans.last_mut().filter(|last| last.author == author) {
            Some(last) => {
                last.len += 1;
                last.end = end;
            }
            None => {
                self.spans.push(Span { author, start, len: 1, end, latency_us: 0, retries: 0 });
            }
        }
    }
}

fn check_logprob(position: u32, value: f32) -> Result<(), SessionError> {
    if is_sampled_logprob(value) {
        return Ok(());
    }
    Err(SessionError::Logprob { position, value })
}

fn after<T>(mut head: Vec<T>, mut tail: Vec<T>) -> Vec<T> {
    head.append(&mut tail);
    head
}

#[cfg(test)]
mod tests;
