//! The weak server's messages.

use std::time::Duration;

use types::{Hash, SessionId};

use super::{ConvertError, hash_bytes, required, unknown};
use crate::span::{Open, SpanFailure, SpanFault, SpanReply, SpanRequest, SpanWritten, WeakMessage};
use crate::wire::weak as wire;

impl From<Open> for wire::Open {
    fn from(o: Open) -> Self {
        Self {
            prompt: o.prompt,
            schedule: o.schedule,
            key: o.key.to_vec(),
            sampling: Some(o.sampling.into()),
            stops: o.stops,
            weak_may_end: o.weak_may_end,
            max_gap: o.max_gap,
        }
    }
}

impl TryFrom<wire::Open> for Open {
    type Error = ConvertError;

    fn try_from(o: wire::Open) -> Result<Self, ConvertError> {
        Ok(Self {
            prompt: o.prompt,
            schedule: o.schedule,
            key: hash_bytes("key", &o.key)?,
            sampling: required(o.sampling, "sampling")?.try_into()?,
            stops: o.stops,
            weak_may_end: o.weak_may_end,
            max_gap: o.max_gap,
        })
    }
}

impl From<SpanRequest> for wire::SpanRequest {
    fn from(r: SpanRequest) -> Self {
        Self {
            session: r.session.0,
            open: r.open.map(Into::into),
            from: r.from,
            prefix_hash: r.prefix_hash,
            append: r.append,
            want_span: r.want_span,
            deadline_ms: r.deadline.as_millis() as u32,
        }
    }
}

impl TryFrom<wire::SpanRequest> for SpanRequest {
    type Error = ConvertError;

    fn try_from(r: wire::SpanRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            session: SessionId(r.session),
            open: r.open.map(Open::try_from).transpose()?,
            from: r.from,
            prefix_hash: r.prefix_hash,
            append: r.append,
            want_span: r.want_span,
            deadline: Duration::from_millis(u64::from(r.deadline_ms)),
        })
    }
}

impl From<WeakMessage> for wire::Request {
    fn from(message: WeakMessage) -> Self {
        let kind = match message {
            WeakMessage::Hello { actor, tokenizer, stops } => {
                let tokenizer = tokenizer.0.to_vec();
                wire::request::Kind::Hello(wire::Hello { actor, tokenizer, stops })
            }
            WeakMessage::Spans(requests) => wire::request::Kind::Spans(wire::Spans {
                requests: requests.into_iter().map(Into::into).collect(),
            }),
            WeakMessage::Close(sessions) => wire::request::Kind::Close(wire::Close {
                sessions: sessions.into_iter().map(|s| s.0).collect(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Request> for WeakMessage {
    type Error = ConvertError;

    fn try_from(request: wire::Request) -> Result<Self, ConvertError> {
        Ok(match required(request.kind, "kind")? {
            wire::request::Kind::Hello(h) => Self::Hello {
                actor: h.actor,
                tokenizer: Hash(hash_bytes("tokenizer", &h.tokenizer)?),
                stops: h.stops,
            },
            wire::request::Kind::Spans(s) => {
                let requests = s.requests.into_iter().map(SpanRequest::try_from);
                Self::Spans(requests.collect::<Result<_, _>>()?)
            }
            wire::request::Kind::Close(c) => {
                Self::Close(c.sessions.into_iter().map(SessionId).collect())
            }
        })
    }
}

fn fault_to_wire(fault: SpanFault) -> wire::SpanError {
    match fault {
        SpanFault::UnknownSession => wire::SpanError::UnknownSession,
        SpanFault::Prefix => wire::SpanError::Prefix,
        SpanFault::Invalid => wire::SpanError::Invalid,
        SpanFault::Overloaded => wire::SpanError::Overloaded,
        SpanFault::Deadline => wire::SpanError::Deadline,
    }
}

fn fault_from_wire(value: i32) -> Result<Option<SpanFault>, ConvertError> {
    let error = wire::SpanError::try_from(value).map_err(|_| unknown("error", value))?;
    Ok(match error {
        wire::SpanError::Unspecified => None,
        wire::SpanError::UnknownSession => Some(SpanFault::UnknownSession),
        wire::SpanError::Prefix => Some(SpanFault::Prefix),
        wire::SpanError::Invalid => Some(SpanFault::Invalid),
        wire::SpanError::Overloaded => Some(SpanFault::Overloaded),
        wire::SpanError::Deadline => Some(SpanFault::Deadline),
    })
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl From<SpanReply> for wire::SpanReply {
    fn from(reply: SpanReply) -> Self {
        let session = reply.session.0;
        match reply.result {
            Ok(written) => Self {
                session,
                tokens: written.tokens,
                logprobs: written.logprobs,
                append_logprobs: written.append_logprobs,
                queue_us: micros(written.queued),
                compute_us: micros(written.computed),
                ..Self::default()
            },
            Err(failure) => Self {
                session,
                error: fault_to_wire(failure.fault).into(),
                reason: failure.reason,
                ..Self::default()
            },
        }
    }
}

impl TryFrom<wire::SpanReply> for SpanReply {
    type Error = ConvertError;

    fn try_from(r: wire::SpanReply) -> Result<Self, ConvertError> {
        let session = SessionId(r.session);
        if let Some(fault) = fault_from_wire(r.error)? {
            return Ok(Self { session, result: Err(SpanFailure { fault, reason: r.reason }) });
        }
        if r.logprobs.len() != r.tokens.len() {
            let (found, expected) = (r.logprobs.len(), r.tokens.len());
            return Err(ConvertError::Length { field: "logprobs", found, expected });
        }
        let written = SpanWritten {
            tokens: r.tokens,
            logprobs: r.logprobs,
            append_logprobs: r.append_logprobs,
            queued: Duration::from_micros(u64::from(r.queue_us)),
            computed: Duration::from_micros(u64::from(r.compute_us)),
        };
        Ok(Self { session, result: Ok(written) })
    }
}

#[cfg(test)]
mod tests {
    use types::Sampling;

    use super::*;

    #[test]
    fn requests_and_replies_survive_the_wire() {
        let request = SpanRequest {
            session: SessionId(3),
            open: Some(Open {
                prompt: vec![1, 2],
                schedule: "word:0.5".into(),
                key: [7; 32],
                sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 9, banned: vec![] },
                stops: vec![1],
                weak_may_end: true,
                max_gap: 32,
            }),
            from: 4,
            prefix_hash: SpanRequest::hash_prefix(&[1, 2], &[1, 2, 3, 4]),
            append: vec![5, 6],
            want_span: true,
            deadline: Duration::from_millis(250),
        };
        let hello = WeakMessage::Hello {
            actor: "actor-0".into(),
            tokenizer: Hash([3; 32]),
            stops: vec![1, 9],
        };
        for message in [hello, WeakMessage::Spans(vec![request])] {
            let wire: wire::Request = message.clone().into();
            assert_eq!(WeakMessage::try_from(wire).unwrap(), message);
        }

        let failure = SpanFailure { fault: SpanFault::Prefix, reason: "other text".into() };
        for result in [
            Err(failure),
            Ok(SpanWritten { tokens: vec![4], logprobs: vec![-0.5], ..SpanWritten::default() }),
        ] {
            let reply = SpanReply { session: SessionId(1), result };
            assert_eq!(SpanReply::try_from(wire::SpanReply::from(reply.clone())).unwrap(), reply);
        }
    }

    #[test]
    fn a_short_key_and_a_missing_logprob_are_refused() {
        let open = wire::Open { key: vec![1; 31], ..wire::Open::default() };
        assert!(
            Open::try_from(open)
                .unwrap_err()
                .to_string()
                .contains("`key` has 31 bytes instead of 32")
        );
        let reply = wire::SpanReply { tokens: vec![1], ..wire::SpanReply::default() };
        assert!(SpanReply::try_from(reply).unwrap_err().to_string().contains("`logprobs`"));
    }
}
