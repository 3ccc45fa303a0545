//! Error codes of the RPCs: gRPC status, retryability and metric label in one place.

use std::error::Error;

use tonic::{Code, Status};

/// Why an RPC failed, as far as the caller's next move depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The message does not convert, or contradicts the receiver's state: a bug or a wrong peer.
    Invalid,
    /// The caller is not registered (any more).
    UnknownMember,
    /// The caller speaks for ranks that are not the present ones.
    Superseded,
    /// The caller did not show the run's token.
    Unauthenticated,
    NotFound,
    Overloaded,
    Deadline,
    /// The peer is gone or stopping.
    Unavailable,
    Internal,
}

impl ErrorCode {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::UnknownMember => "unknown_member",
            Self::Superseded => "superseded",
            Self::Unauthenticated => "unauthenticated",
            Self::NotFound => "not_found",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(self, Self::Overloaded | Self::Deadline | Self::Unavailable)
    }

    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        let code = match self {
            Self::Invalid => Code::InvalidArgument,
            Self::UnknownMember => Code::FailedPrecondition,
            Self::Superseded => Code::Aborted,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::NotFound => Code::NotFound,
            Self::Overloaded => Code::ResourceExhausted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        };
        Status::new(code, message)
    }

    #[must_use]
    pub fn of(status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid,
            Code::FailedPrecondition => Self::UnknownMember,
            Code::Aborted => Self::Superseded,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::NotFound => Self::NotFound,
            Code::ResourceExhausted => Self::Overloaded,
            Code::DeadlineExceeded => Self::Deadline,
            Code::Unavailable | Code::Cancelled => Self::Unavailable,
            // No peer of ours says `unknown`, and what a peer says has no source here: this is
            // tonic's word for a connection that broke under the call.
            Code::Unknown => Self::Unavailable,
            Code::Internal if status.source().is_some() => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

/// A failed RPC, with the peer's own words.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {message}")]
pub struct RpcError {
    pub call: &'static str,
    pub code: ErrorCode,
    pub message: String,
}

impl RpcError {
    pub(crate) fn new(call: &'static str, status: &Status) -> Self {
        // A connection that broke says why only in what lies below.
        let mut message = status.message().to_owned();
        let mut below = status.source();
        while let Some(error) = below {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            below = error.source();
        }
        Self { call, code: ErrorCode::of(status), message }
    }

    pub(crate) fn invalid(call: &'static str, error: impl std::fmt::Display) -> Self {
        Self { call, code: ErrorCode::Invalid, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelError;

    #[test]
    fn a_broken_connection_may_be_tried_again_and_a_peers_own_fault_may_not() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = ErrorCode::of(&Status::from_error(Box::new(broken)));
        assert_eq!((broken, broken.retryable()), (ErrorCode::Unavailable, true));
        let fault = ErrorCode::of(&ErrorCode::Internal.status("no room on the disk"));
        assert_eq!((fault, fault.retryable()), (ErrorCode::Internal, false));
    }

    #[test]
    fn why_a_connection_broke_is_told() {
        let alert = std::io::Error::other("received fatal alert: CertificateRequired");
        let tls = ChannelError::Plaintext { address: "10.0.0.7:1".to_owned() };
        let broken = RpcError::new("register", &Status::from_error(Box::new(alert)));
        assert!(broken.message.contains("CertificateRequired"), "{broken}");
        let told = RpcError::new("register", &Status::from_error(Box::new(tls)));
        assert_eq!(told.message.matches("security.authority").count(), 1, "{told}");
        let said = RpcError::new("lease", &ErrorCode::NotFound.status("no such version"));
        assert_eq!(said.to_string(), "lease: no such version");
    }

    #[test]
    fn every_code_survives_the_wire() {
        use ErrorCode::{Deadline, Internal, Invalid, NotFound, Overloaded, Unavailable};
        let codes = [Invalid, NotFound, Overloaded, Deadline, Unavailable, Internal];
        let callers = [ErrorCode::UnknownMember, ErrorCode::Unauthenticated];
        for code in codes.into_iter().chain(callers) {
            assert_eq!(ErrorCode::of(&code.status("why")), code);
        }
    }
}
