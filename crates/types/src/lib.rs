//! The vocabulary that every other crate speaks: identifiers, authors, rollouts, weights.
//! No I/O, no tensors, no serialisation formats: wire, journal and settings own theirs.

mod group;
mod ids;
mod problem;
mod rollout;
mod token;
mod weights;

pub use group::{Purpose, RolloutGroup};
pub use ids::{
    Epoch, Generation, GroupId, LeaseId, MemberId, PolicyVersion, SampleIndex, SessionId,
};
pub use problem::{Problem, Shot};
pub use rollout::{
    Finish, Rollout, RolloutError, RolloutParts, Sampling, Share, Span, SpanEnd, Verdict,
    is_sampled_logprob,
};
pub use token::{Author, TokenId, UnknownAuthor};
pub use weights::{Dtype, Hash, TensorInfo, WeightManifest};
