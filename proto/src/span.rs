//! What an actor and the weak server say to each other, as domain types.

use std::time::Duration;

use types::{Hash, Sampling, SessionId, TokenId};

/// What a session needs beyond tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// The weak model's own prompt.
    pub prompt: Vec<TokenId>,
    /// Written form of the schedule.
    pub schedule: String,
    /// The rollout's random key: coins and draws follow from it.
    pub key: [u8; 32],
    pub sampling: Sampling,
    /// Union of both models' ends, the canonical one first.
    pub stops: Vec<TokenId>,
    /// Whether the weak model may draw one of them.
    pub weak_may_end: bool,
    /// So many tokens without a word boundary force a redraw of the author; 0 never does.
    pub max_gap: u32,
}

/// Appends the strong tokens since the last request and asks for the weak model's next span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanRequest {
    pub session: SessionId,
    /// With the first request of a session, and whenever it is resent.
    pub open: Option<Open>,
    /// Response position of the first token of `append`.
    pub from: u32,
    /// [`SpanRequest::hash_prefix`] of the prompt and the response before `from`.
    pub prefix_hash: u64,
    pub append: Vec<TokenId>,
    /// False: only log-probabilities of the appended tokens are wanted.
    pub want_span: bool,
    pub deadline: Duration,
}

impl SpanRequest {
    /// Of the weak model's prompt and response tokens, so that both sides know they speak of the
    /// same text.
    #[must_use]
    pub fn hash_prefix(prompt: &[TokenId], response: &[TokenId]) -> u64 {
        let mut bytes = (prompt.len() as u64).to_le_bytes().to_vec();
        bytes.extend(prompt.iter().chain(response).flat_map(|t| t.to_le_bytes()));
        let hash = Hash::of(&bytes).0;
        u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
    }
}

/// An actor's message on its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WeakMessage {
    /// First on every stream; `tokenizer` is the strong tokenizer's fingerprint, `stops` what the
    /// actor takes for ends of the text.
    Hello {
        actor: String,
        tokenizer: Hash,
        stops: Vec<TokenId>,
    },
    Spans(Vec<SpanRequest>),
    Close(Vec<SessionId>),
}

/// The weak model's span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanWritten {
    pub tokens: Vec<TokenId>,
    pub logprobs: Vec<f32>,
    /// The weak model's, of each appended token, in order.
    pub append_logprobs: Vec<f32>,
    pub queued: Duration,
    pub computed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanFault {
    /// Never opened here, or evicted: resend with `open` and the whole response.
    UnknownSession,
    /// Prefix length or hash differ: resend likewise.
    Prefix,
    /// The request itself is wrong; repeating it will not help.
    Invalid,
    Overloaded,
    Deadline,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weak server: {reason}")]
pub struct SpanFailure {
    pub fault: SpanFault,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SpanReply {
    pub session: SessionId,
    pub result: Result<SpanWritten, SpanFailure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_told_by_prompt_and_response() {
        let hash = SpanRequest::hash_prefix;
        assert_eq!(hash(&[1, 2], &[3]), hash(&[1, 2], &[3]));
        assert_ne!(hash(&[1, 2], &[3]), hash(&[1, 4], &[3]));
        assert_ne!(hash(&[1, 2], &[3]), hash(&[1, 2], &[4]));
        assert_ne!(hash(&[1, 2], &[3]), hash(&[1], &[2, 3]));
    }
}
