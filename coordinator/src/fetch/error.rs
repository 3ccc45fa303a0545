//! What can go wrong between here and a hub, each with the way out. No error holds the token.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(
        "{repo} is gated and {whose}: accept its licence at {endpoint}/{repo} and set HF_TOKEN to \
         a token of the account that did"
    )]
    Gated { repo: String, endpoint: String, whose: &'static str },
    #[error(
        "{endpoint} does not show {repo} ({status}): it does not exist, or it is private and \
         {whose}; check the name, or set HF_TOKEN to a token that may read it"
    )]
    Hidden { repo: String, endpoint: String, status: u16, whose: &'static str },
    #[error("there is no repository {repo} on {endpoint}: check its name, OWNER/NAME")]
    NoRepository { repo: String, endpoint: String },
    #[error("{repo} has no revision {revision}: name a branch, a tag or a commit with --revision")]
    NoRevision { repo: String, revision: String },
    #[error("{repo} has no file {file} at this revision: it has {there}")]
    NoFile { repo: String, file: String, there: String },
    #[error("there is no {0}: check the address")]
    NoAddress(String),
    #[error("cannot reach {host}: {reason}; check the network, the proxy or HF_ENDPOINT")]
    Unreachable { host: String, reason: String },
    #[error("{host} answered {status} for {what}; try again later")]
    Status { host: String, status: u16, what: String },
    #[error(
        "{host} does not answer as a hub does, {what} came without {lacking}: check HF_ENDPOINT"
    )]
    NoHub { host: String, what: String, lacking: &'static str },
    #[error(
        "{file} came only in part, {found} of {expected} bytes: {reason}; the same command goes on \
         from there"
    )]
    Cut { file: String, found: u64, expected: u64, reason: String },
    #[error(
        "{file} is damaged, its {kind} is {found} where the hub says {expected}; it was deleted, \
         run the same command again"
    )]
    Damaged { file: String, kind: &'static str, found: String, expected: String },
    #[error("{0} is being downloaded by another process: wait for its end")]
    Busy(PathBuf),
    #[error("the hub names a file `{0}`, which would lie outside of the directory: not fetched")]
    Name(String),
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
    #[error("{variable} is `{value}`: {hint}")]
    Environment { variable: &'static str, value: String, hint: String },
}

impl FetchError {
    /// Whether the fault may pass.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } | Self::Damaged { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}
