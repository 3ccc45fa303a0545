//! The coordinator's executable: flags in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use coordinator::cli::Cli;

fn main() -> ExitCode {
    ExitCode::from(coordinator::run(&Cli::parse()))
}
