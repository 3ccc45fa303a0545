//! The vocabulary that every other crate speaks: identifiers, authors, rollouts, weights.
//! No tensors, no serialisation formats: wire, journal and settings own theirs. Of files it knows
//! what keeps them harmless, their names and the size of their headers, and what they leave out.

mod defaults;
mod group;
mod header;
mod ids;
mod names;
mod problem;
mod rollout;
mod token;
mod weights;

pub use defaults::GEMMA3_TEXT_SIZES;
pub use group::{Purpose, RolloutGroup};
pub use header::{HEADER_BYTES_MAX, HeaderFault, check_header, header_bytes, read_safetensors};
pub use ids::{
    Epoch, Generation, GroupId, LeaseId, MemberId, PolicyVersion, SampleIndex, SessionId,
};
pub use names::is_file_name;
pub use problem::{Problem, Shot};
pub use rollout::{
    Finish, Rollout, RolloutError, RolloutParts, Sampling, Share, Span, SpanEnd, Verdict,
    is_sampled_logprob,
};
pub use token::{Author, TokenId, UnknownAuthor};
pub use weights::{Dtype, Hash, TensorInfo, WeightManifest};
