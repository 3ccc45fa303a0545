//! The coordinator: deals out problems, keeps and announces weights, launches and watches the
//! other programs, and says what a run found. It never sees a tensor. This file lists its parts
//! and turns a command line into an exit code.

pub mod children;
pub mod cli;
pub mod config_command;
pub mod credentials;
pub mod departures;
pub mod discovery;
mod disk;
pub mod doctor;
pub mod eval;
pub mod eval_plan;
pub mod export;
pub mod fetch;
#[cfg(test)]
mod fixtures;
pub mod gates;
pub mod healthcheck;
pub mod host;
pub mod hub;
pub mod intervals;
pub mod journal;
pub mod launch;
pub mod lease;
pub mod membership;
pub mod metrics;
pub mod metrics_log;
mod models;
pub mod output;
pub mod overrides;
pub mod pass_table;
pub mod placement;
pub mod plan;
mod program;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod restarts;
pub mod resume;
pub mod run_dir;
mod run_lines;
pub mod service;
pub mod session;
pub mod sft;
pub mod shard;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod spec;
pub mod state;
pub mod status;
pub mod stop_plan;
mod stored;
pub mod summary;
pub mod table;
pub mod tiny;
pub mod top;
mod track;
pub mod weight_store;

use std::time::Duration;

use settings::SettingsError;

use cli::{Cli, Command, DataCommand, ModelCommand, RecipeCommand, UsageError};

const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;

/// Without its parent, this process ends by then.
const PARENT_GRACE: Duration = Duration::from_secs(60);

/// Runs a command; errors go to standard error. Exit codes: 0 done, 1 failed, 2 wrong use, 130 and
/// 143 stopped by a signal.
#[must_use]
pub fn run(cli: &Cli) -> u8 {
    if cli.exit_with_parent
        && let Err(error) = runtime::terminate_with_parent(PARENT_GRACE)
    {
        eprintln!("coordinator: cannot watch the parent process: {error}");
        return FAILED;
    }
    let done = match &cli.command {
        Command::Launch(args) => launch::launch(args),
        Command::Serve(args) => launch::serve(args),
        Command::Status(args) => status::status(args),
        Command::Top(args) => top::top(args),
        Command::Report(args) => report::report(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Healthcheck(args) => healthcheck::healthcheck(args),
        Command::Eval(args) => eval::eval(args),
        Command::Sft(args) => sft::sft(args),
        Command::Recipe(RecipeCommand::Gsm8kJargon(args)) => recipe::recipe(args),
        Command::Model(ModelCommand::Tiny(args)) => tiny::tiny(args),
        Command::Model(ModelCommand::Get(args)) => fetch::model_get(args),
        Command::Data(DataCommand::Get(args)) => fetch::data_get(args),
        Command::Model(ModelCommand::Export(args)) => export::export(args),
        Command::Credentials(args) => credentials::credentials(args),
        Command::Config(command) => config_command::config(command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("coordinator: {error:#}");
        let usage = error.is::<UsageError>() || error.is::<SettingsError>();
        if usage { USAGE } else { FAILED }
    })
}
