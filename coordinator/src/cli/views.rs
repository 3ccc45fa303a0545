//! Flags of the commands that show runs to people: `report`, `status` and `top`.

use std::path::PathBuf;

use clap::Args;

use super::ConfigArgs;

#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Run directories, whose runs may be under way; the first ones are the first in every chart.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The HTML file; without it, RUN/report.html for one run and report.html for several.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A run under way.
#[derive(Args, Clone, Debug)]
pub struct LiveRunArgs {
    /// A run directory.
    #[arg(required_unless_present = "coordinator")]
    pub run: Option<PathBuf>,
    /// Instead: where the coordinator listens, HOST:PORT; with the run's settings for security.
    #[arg(long, conflicts_with = "run")]
    pub coordinator: Option<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
}
