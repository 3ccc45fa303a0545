//! The programs as a user starts them, in runs of seconds.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod admin;
mod bad_input;
mod clock;
mod gates;
mod gsm8k;
mod hostile;
mod launch;
mod observe;
mod placed;
mod raw;
mod recipe;
mod reliability;
mod report;
mod security;
mod serve;
mod slow_learner;
mod slurm;
mod stopping;
mod store;
mod trackers;
mod version;

use std::time::Duration;

/// More than any of these runs needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Flags of a run that is as small as it can be and still has every phase.
const SMALL: [&str; 9] = [
    "launch",
    "--run-dir",
    "{dir}",
    "--set",
    "eval.problems=16",
    "--set",
    "train.samples_per_problem=4",
    "--set",
    "checkpoint.every_steps=2",
];

/// `SMALL` with two actors and further flags.
fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    small_with("2", more)
}

fn small_with<'a>(actors: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let actors = ["--actors", actors];
    SMALL.iter().copied().chain(actors).chain(more.iter().copied()).collect()
}
