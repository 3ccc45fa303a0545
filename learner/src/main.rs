//! The learner's `main`: flags in, exit code out. All else is in the library.

use std::process::ExitCode;

use clap::Parser;
use member::{MemberArgs, run_member};
use proto::Role;

/// Trains the strong model on the rollouts that actors send, and publishes its weights.
#[derive(Parser)]
#[command(name = "learner", version)]
struct Cli {
    #[command(flatten)]
    member: MemberArgs,
}

fn main() -> ExitCode {
    run_member(Role::Learner, Cli::parse().member, learner::program(), learner::run)
}
