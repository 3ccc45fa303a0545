//! How a process joins a run: flags, settings, logging, admin port, signals, the coordinator.
//! What it then does there belongs to the programs.

mod announce;
mod args;
mod heart;
mod join;
mod last_word;
mod process;
mod tie;

pub use args::MemberArgs;
pub use join::Membership;
pub use last_word::NotFinite;
pub use process::{Process, ProgramMetrics, run_member};
pub use tie::{Tie, may_pass};
