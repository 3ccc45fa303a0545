//! The weak-server program: flags, then the library's `run` within the frame that all members share.

use std::process::ExitCode;

use clap::Parser;
use member::MemberArgs;
use proto::Role;

/// Continues the strong model's text with a frozen weak model, for all actors at once.
#[derive(Parser)]
#[command(name = "weak-server", version)]
struct Args {
    #[command(flatten)]
    member: MemberArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    member::run_member(Role::WeakServer, args.member, weak_server::PROGRAM, weak_server::run)
}
