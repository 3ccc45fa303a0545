//! The actor: writes rollouts together with a weak server. Flags and process only.

use std::process::ExitCode;

use clap::Parser;
use member::{MemberArgs, ProgramMetrics, run_member};

/// Writes rollouts: the strong model here, handed off to a weak server. Usually started by
/// `coordinator launch`.
#[derive(Parser)]
#[command(name = "actor", version)]
struct Args {
    #[command(flatten)]
    member: MemberArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let program = ProgramMetrics {
        metrics: actor::metrics::ALL,
        buckets: actor::metrics::BUCKETS,
        readiness: actor::metrics::READINESS,
    };
    run_member(proto::Role::Actor, args.member, program, actor::run)
}
