//! The tandem algorithm without I/O: who writes which token, how a rollout grows, how it is graded.
//! Sampling, transport and time belong to the programs that drive it.

mod authors;
mod boundary;
mod key;
pub mod reward;
mod schedule;
mod session;
mod stop_texts;

pub use authors::{
    AuthorMismatch, AuthorRule, Authors, Boundary, check_authors, check_rollout, replay,
};
pub use boundary::{Boundaries, NamedBoundaries};
pub use key::RandomKey;
pub use reward::{Grade, GraderKind};
pub use schedule::{Schedule, ScheduleError, Unit};
pub use session::{Session, SessionError, SessionPlan, Turn, WeakSpan};
pub use stop_texts::StopTexts;
