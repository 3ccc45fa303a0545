//! Wire to domain, fallibly, on receipt only; domain to wire, infallibly.

mod journal;
mod pulse;
mod rollout;
mod span;
mod weights;
mod work;

pub use rollout::group_bytes;
pub(crate) use weights::filed;
pub use weights::{CHUNK_BYTES, WeightAssembler, WeightError, weight_chunks};

use types::{RolloutError, UnknownAuthor};

use crate::version::VersionSkew;

/// Why a received message is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConvertError {
    #[error("the message has no `{0}`")]
    Missing(&'static str),
    #[error("`{field}` has the unknown value {value}")]
    Unknown { field: &'static str, value: i64 },
    #[error("`{field}` has {found} entries for {expected} tokens")]
    Length { field: &'static str, found: usize, expected: usize },
    #[error("`{field}` has {found} bytes instead of {expected}")]
    Bytes { field: &'static str, found: usize, expected: usize },
    #[error("`{field}` is no plain name of a file")]
    Name { field: &'static str },
    #[error("`{field}` is not a finite number")]
    NotFinite { field: &'static str },
    #[error("`{field}` is {value} but must be {range}")]
    Range { field: &'static str, value: f32, range: &'static str },
    #[error(transparent)]
    Version(#[from] VersionSkew),
    #[error(transparent)]
    Author(#[from] UnknownAuthor),
    #[error(transparent)]
    Rollout(#[from] RolloutError),
}

pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing(field))
}

pub(crate) fn unknown(field: &'static str, value: i32) -> ConvertError {
    ConvertError::Unknown { field, value: i64::from(value) }
}

pub(crate) fn hash_bytes(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], ConvertError> {
    let found = bytes.len();
    bytes.try_into().map_err(|_| ConvertError::Bytes { field, found, expected: 32 })
}
