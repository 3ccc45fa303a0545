//! A rollout: token columns of one length, checked when built. Scoring and training live elsewhere.

use std::ops::Range;

use crate::{Author, PolicyVersion, SampleIndex, TokenId};

/// Why a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// An end token was written, or a text that ends a rollout.
    End,
    /// `sampling.max_tokens` was reached.
    Truncated,
}

/// Why a span ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanEnd {
    /// The coin at a boundary gave the turn to the other author.
    Boundary,
    /// The same, where the boundary was forced by `handoff.max_gap`.
    MaxGap,
    /// The text ended.
    End,
    /// The token limit.
    Limit,
}

/// A run of tokens of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub author: Author,
    /// Index into the response (the prompt is not counted).
    pub start: u32,
    pub len: u32,
    pub end: SpanEnd,
    /// Wall time from the request to the last token, microseconds; 0 for strong spans.
    pub latency_us: u32,
    /// How often the request was repeated.
    pub retries: u32,
}

/// What both authors were sampled under.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    pub top_p: f32,
    pub max_tokens: u32,
    /// Never sampled, by either author.
    pub banned: Vec<TokenId>,
}

/// A count out of a total; kept apart so that shares of many rollouts add up exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub count: u32,
    pub of: u32,
}

/// How the text was graded.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub text: String,
    pub extracted: Option<String>,
    /// Who wrote the first token of the extracted answer.
    pub answered_by: Option<Author>,
    pub correct: bool,
    pub reward: f32,
    /// Jargon among the strong model's own words.
    pub jargon: Share,
}

/// The columns before they are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutParts {
    pub sample: SampleIndex,
    /// Leading tokens by [`Author::Prompt`].
    pub prompt_len: usize,
    pub tokens: Vec<TokenId>,
    pub authors: Vec<Author>,
    /// Under the author's own sampling distribution, nats; 0 on the prompt.
    pub logprobs: Vec<f32>,
    /// The weights that sampled the token; default on the prompt and on weak tokens.
    pub versions: Vec<PolicyVersion>,
    /// The weak model's log-probability of strong tokens; NaN where it is not known.
    pub weak_logprobs: Vec<f32>,
    pub spans: Vec<Span>,
    pub finish: Finish,
    pub sampling: Sampling,
    /// Forced redraws by `handoff.max_gap`.
    pub forced_redraws: u32,
    pub verdict: Verdict,
}

/// A rollout whose columns agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout(RolloutParts);

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RolloutError {
    #[error(
        "rollout has {tokens} tokens but {found} {column}: every column must have one entry per token"
    )]
    Length { column: &'static str, found: usize, tokens: usize },
    #[error(
        "rollout has a prompt of {prompt} tokens but only {tokens} tokens in all: it has no response"
    )]
    NoResponse { prompt: usize, tokens: usize },
    #[error("token {index} is by {found} but the prompt has {prompt} tokens")]
    PromptAuthor { index: usize, found: &'static str, prompt: usize },
    #[error("log-probability {value} of token {index} is not a finite number at most 0")]
    Logprob { index: usize, value: f32 },
    #[error("spans do not tile the response: span {span} starts at {start}, expected {expected}")]
    Spans { span: usize, start: u32, expected: u32 },
    #[error("spans do not tile the response: span {span} has {len} tokens where {rest} are left")]
    SpanLength { span: usize, len: u32, rest: u32 },
    #[error("span {span} is by {by} but its token {index} is by {found}")]
    SpanAuthor { span: usize, by: &'static str, index: usize, found: &'static str },
    #[error("reward {0} is not finite")]
    Reward(f32),
}

impl Rollout {
    /// # Errors
    /// Any column of another length, an author out of place, spans that do not tile the response,
    /// a log-probability above 0 or not finite.
    pub fn new(parts: RolloutParts) -> Result<Self, RolloutError> {
        parts.check_lengths()?;
        parts.check_authors()?;
        parts.check_spans()?;
        if !parts.verdict.reward.is_finite() {
            return Err(RolloutError::Reward(parts.verdict.reward));
        }
        Ok(Self(parts))
    }

    #[must_use]
    pub fn parts(&self) -> &RolloutParts {
        &self.0
    }

    #[must_use]
    pub fn into_parts(self) -> RolloutParts {
        self.0
    }

    /// Positions of the generated tokens.
    #[must_use]
    pub fn response(&self) -> Range<usize> {
        self.0.prompt_len..self.0.tokens.len()
    }

    #[must_use]
    pub fn count(&self, author: Author) -> usize {
        self.0.authors.iter().filter(|a| **a == author).count()
    }

    /// At least one generated token is weak.
    #[must_use]
    pub fn has_handoff(&self) -> bool {
        self.0.authors.contains(&Author::Weak)
    }

    /// The oldest weights that sampled a strong token, if there is one.
    #[must_use]
    pub fn oldest_version(&self) -> Option<PolicyVersion> {
        let strong = self.0.authors.iter().zip(&self.0.versions);
        strong.filter(|(a, _)| **a == Author::Strong).map(|(_, v)| *v).min()
    }
}

/// Whether a token can have been sampled with this log-probability: what was drawn was not
/// impossible, and sums in f32 may end a little above 0.
#[must_use]
pub fn is_sampled_logprob(value: f32) -> bool {
    value.is_finite() && value <= 1e-4
}

impl RolloutParts {
    fn check_lengths(&self) -> Result<(), RolloutError> {
        let tokens = self.tokens.len();
        let columns = [
            ("authors", self.authors.len()),
            ("log-probabilities", self.logprobs.len()),
            ("policy versions", self.versions.len()),
            ("weak log-probabilities", self.weak_logprobs.len()),
        ];
        for (column, found) in columns {
            if found != tokens {
                return Err(RolloutError::Length { column, found, tokens });
            }
        }
        if self.prompt_len >= tokens {
            return Err(RolloutError::NoResponse { prompt: self.prompt_len, tokens });
        }
        Ok(())
    }

    fn check_authors(&self) -> Result<(), RolloutError> {
        for (index, author) in self.authors.iter().enumerate() {
            if (*author == Author::Prompt) != (index < self.prompt_len) {
                let (found, prompt) = (author.name(), self.prompt_len);
                return Err(RolloutError::PromptAuthor { index, found, prompt });
            }
            let value = self.logprobs[index];
            if !is_sampled_logprob(value) {
                return Err(RolloutError::Logprob { index, value });
            }
        }
        Ok(())
    }

    fn check_spans(&self) -> Result<(), RolloutError> {
        let response = (self.tokens.len() - self.prompt_len) as u32;
        let mut expected = 0;
        for (span, s) in self.spans.iter().enumerate() {
            if s.start != expected || s.len == 0 {
                return Err(RolloutError::Spans { span, start: s.start, expected });
            }
            let rest = response - expected;
            if s.len > rest {
                return Err(RolloutError::SpanLength { span, len: s.len, rest });
            }
            expected += s.len;
            let first = self.prompt_len + s.start as usize;
            for index in first..first + s.len as usize {
                if self.authors[index] != s.author {
                    let (by, found) = (s.author.name(), self.authors[index].name());
                    return Err(RolloutError::SpanAuthor { span, by, index, found });
                }
            }
        }
        if expected != response {
            let span = self.spans.len();
            return Err(RolloutError::Spans { span, start: response, expected });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> RolloutParts {
        let v = PolicyVersion::default();
        RolloutParts {
            sample: SampleIndex(0),
            prompt_len: 1,
            tokens: vec![5, 6, 7],
            authors: vec![Author::Prompt, Author::Strong, Author::Weak],
            logprobs: vec![0.0, -0.5, -0.25],
            versions: vec![v; 3],
            weak_logprobs: vec![f32::NAN; 3],
            spans: vec![span(Author::Strong, 0), span(Author::Weak, 1)],
            finish: Finish::End,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 8, banned: vec![] },
            forced_redraws: 0,
            verdict: Verdict {
                text: String::new(),
                extracted: None,
                answered_by: None,
                correct: false,
                reward: 0.0,
                jargon: Share::default(),
            },
        }
    }

    fn span(author: Author, start: u32) -> Span {
        Span { author, start, len: 1, end: SpanEnd::Boundary, latency_us: 0, retries: 0 }
    }

    fn refused(change: impl FnOnce(&mut RolloutParts)) -> String {
        let mut parts = parts();
        change(&mut parts);
        Rollout::new(parts).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_consistent_rollout_is_accepted() {
        let rollout = Rollout::new(parts()).unwrap();
        assert!(rollout.has_handoff());
        assert_eq!((rollout.response(), rollout.count(Author::Strong)), (1..3, 1));
    }

    #[test]
    fn each_inconsistency_is_refused_by_name() {
        assert!(refused(|p| p.authors.clear()).contains("0 authors"));
        assert!(refused(|p| p.authors.rotate_left(1)).contains("token 0 is by strong"));
        assert!(refused(|p| p.authors.swap(1, 2)).contains("span 0 is by strong"));
        assert!(refused(|p| p.logprobs[1] = f32::NAN).contains("NaN"));
        assert!(refused(|p| p.logprobs[1] = 0.5).contains("0.5"));
        assert!(refused(|p| p.logprobs[2] = f32::NEG_INFINITY).contains("-inf"));
        assert!(refused(|p| p.spans[1].start = 2).contains("do not tile"));
        assert!(refused(|p| p.spans[1].len = u32::MAX).contains("where 1 are left"));
        assert!(refused(|p| p.spans.truncate(1)).contains("do not tile"));
        assert!(refused(|p| p.prompt_len = 3).contains("no response"));
        assert!(refused(|p| p.verdict.reward = f32::INFINITY).contains("inf"));
    }
}
