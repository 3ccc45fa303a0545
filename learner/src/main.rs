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
    /// Train nothing: publish the strong model as it is, for an evaluation.
    #[arg(long)]
    publish_only: bool,
}

fn main() -> ExitCode {
    let Cli { member, publish_only } = Cli::parse();
    match publish_only {
        true => run_member(Role::Learner, member, learner::program(), learner::publish_only),
        false => run_member(Role::Learner, member, learner::program(), learner::run),
    }
}
