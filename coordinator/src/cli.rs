//! Commands and flags of the coordinator, and the settings that they add up to.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use settings::{EvalSplit, Layers, Settings, SettingsError};

use crate::run_dir::CheckpointChoice;

mod views;

pub use views::{LiveRunArgs, ReportArgs};

/// Trains a strong model by reinforcement learning on rollouts that a frozen weak model continues.
#[derive(Parser, Debug)]
#[command(name = "coordinator", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Stop when standard input closes; for programs that start this one.
    #[arg(long, global = true, hide = true)]
    pub exit_with_parent: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train: start all programs, evaluate before and after, leave a run directory.
    Launch(LaunchArgs),
    /// Train with processes that others start, here or on other machines: begins a run, or goes on
    /// with the one in --run-dir.
    Serve(ServeArgs),
    /// Show where a run under way stands, and what each of its processes waits for.
    Status(LiveRunArgs),
    /// The same as a live view of the terminal, with the numbers of the last steps.
    Top(LiveRunArgs),
    /// Runs side by side as one HTML file: curves, results, sample rollouts.
    Report(ReportArgs),
    /// Look whether this machine can run what is asked of it, and write what compose needs to know.
    Doctor(DoctorArgs),
    /// Ask a process of a run whether it is healthy: exit code 0 if it is.
    Healthcheck(HealthcheckArgs),
    /// Evaluate a run's checkpoint, or the strong model of a settings file.
    Eval(EvalArgs),
    /// Fine-tune on worked solutions, then check the gates.
    Sft(SftArgs),
    /// Do a whole experiment, stage by stage; the same command again goes on where it ended.
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Make, fetch and export models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Fetch data sets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Make a certificate authority, a certificate and a token for the processes of a run.
    Credentials(CredentialsArgs),
    /// Look at settings.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Where settings come from.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// A settings file, or the name of a preset; without it, the miniature.
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<String>,
    /// Overrides one setting; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// How many processes of each kind; those that others start are waited for.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct CountArgs {
    /// Actor processes; without it, 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub actors: Option<u32>,
    /// Learner ranks, which share every step; without it, 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub learners: Option<u32>,
    /// Weak-server processes; actors are spread over them in turn. Without it, 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub weak_servers: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub struct LaunchArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub counts: CountArgs,
    /// Same as --set train.steps=N.
    #[arg(long)]
    pub steps: Option<u32>,
    /// Same as --set seed=S.
    #[arg(long)]
    pub seed: Option<u64>,
    /// A new or empty directory; without it, the first free runs/NAME-N.
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// Go on with the run in --run-dir where its history ends, with as many processes as it had
    /// unless flags say otherwise.
    #[arg(long, requires = "run_dir", conflicts_with = "dry_run")]
    pub resume: bool,
    /// Print what would run, and run nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub counts: CountArgs,
    /// A new or empty directory, or that of a run, which is gone on with.
    #[arg(long)]
    pub run_dir: PathBuf,
}

impl ServeArgs {
    /// As `launch` would be asked.
    #[must_use]
    pub fn as_launch(&self) -> LaunchArgs {
        LaunchArgs {
            config: self.config.clone(),
            counts: self.counts,
            steps: None,
            seed: None,
            run_dir: Some(self.run_dir.clone()),
            resume: false,
            dry_run: false,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Ports that must be free; may be repeated.
    #[arg(long = "port", value_name = "PORT", default_values_t = [9090, 3000])]
    pub ports: Vec<u16>,
    /// Add what compose needs to know to this file, as deploy/.env; what it says already stays.
    #[arg(long, value_name = "FILE")]
    pub write_env: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// Where the process answers on its admin port; without it, at the port of `admin.listen` on
    /// this machine.
    #[arg(value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Whether it is ready for work, not only alive.
    #[arg(long)]
    pub ready: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Args, Clone, Debug)]
pub struct EvalArgs {
    /// A run directory.
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    pub run: Option<PathBuf>,
    /// A settings file or preset: its strong model as it is.
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<String>,
    /// Overrides one setting; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// `latest`, `best` (highest tandem accuracy on held-out problems), or a step's number.
    #[arg(long, default_value = "latest", conflicts_with = "config")]
    pub checkpoint: CheckpointChoice,
    /// Problems: same as --set eval.problems=N. Without it, `--split test` takes all of them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Instead: whether the weak model follows plain solutions better than annotated ones (GSM8K).
    #[arg(long)]
    pub probe: bool,
    /// Same as --set eval.split=SPLIT.
    #[arg(long, value_parser = ["held-out", "test"])]
    pub split: Option<String>,
    /// Actor processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub actors: u32,
}

#[derive(Args, Clone, Debug)]
pub struct SftArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Same as --set train.steps=N.
    #[arg(long)]
    pub steps: Option<u32>,
    /// Same as --set seed=S.
    #[arg(long)]
    pub seed: Option<u64>,
    /// A new or empty directory; without it, the first free runs/NAME-N.
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// Go on with the run in --run-dir where its history ends.
    #[arg(long, requires = "run_dir")]
    pub resume: bool,
    /// Actor processes that check the gates.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub actors: u32,
}

#[derive(Subcommand, Clone, Debug)]
pub enum ModelCommand {
    /// A small random model with a tokenizer trained on a data set, for smoke runs.
    Tiny(TinyArgs),
    /// Fetch a model from the Hugging Face hub, or a mirror of it (HF_ENDPOINT), into its cache.
    Get(GetArgs),
    /// A run's checkpoint as a directory that other libraries load.
    Export(ExportArgs),
}

/// How files are fetched.
#[derive(Args, Clone, Debug)]
pub struct FetchArgs {
    /// A branch, a tag or a commit.
    #[arg(long, default_value = "main")]
    pub revision: String,
    /// Tries after the first one; a try that brings bytes starts the count anew.
    #[arg(long, default_value_t = 5)]
    pub retries: u32,
    /// Before the second try; it doubles from try to try.
    #[arg(long, default_value_t = 500)]
    pub retry_wait_ms: u64,
    /// A connection, an answer or the next bytes are waited for no longer.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub silence_ms: u64,
}

#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// OWNER/NAME.
    pub repository: String,
    /// This file alone, for instance one of several GGUF files.
    #[arg(long)]
    pub file: Option<String>,
    /// A new or empty directory that gets a copy; without it the model stays in the cache.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub fetch: FetchArgs,
}

#[derive(Subcommand, Clone, Debug)]
pub enum DataCommand {
    /// Fetch a data set as the JSON lines that `data.path` names.
    Get(DataArgs),
}

#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    #[arg(value_enum)]
    pub set: DataSet,
    /// A new or empty directory for train.jsonl and test.jsonl.
    #[arg(long, value_name = "DIR", default_value = "data/gsm8k")]
    pub out: PathBuf,
    /// Fetch URL/train.jsonl and URL/test.jsonl instead of the hub's parquet files.
    #[arg(long)]
    pub url: Option<String>,
    #[command(flatten)]
    pub fetch: FetchArgs,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSet {
    Gsm8k,
}

#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// A run directory.
    pub run: PathBuf,
    /// `latest`, `best` (highest tandem accuracy on held-out problems), or a step's number.
    #[arg(long, default_value = "latest")]
    pub checkpoint: CheckpointChoice,
    /// Of the weights; rounded to the nearest, ties to even.
    #[arg(long, value_enum, default_value = "bf16")]
    pub dtype: ExportDtype,
    /// A new or empty directory for the model.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportDtype {
    Bf16,
    F16,
    F32,
}

#[derive(Args, Clone, Debug)]
pub struct TinyArgs {
    /// The directory whose train.jsonl the tokenizer is trained on.
    #[arg(long, value_name = "DIR")]
    pub tokenizer_from: PathBuf,
    /// A new or empty directory for the model.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Tokens of the vocabulary.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(300..=100_000))]
    pub vocab: u32,
    /// Of the random weights.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Subcommand, Clone, Debug)]
pub enum RecipeCommand {
    /// Calculator annotations (`<<48/2=24>>`) as jargon: does tandem training remove them?
    Gsm8kJargon(RecipeArgs),
}

#[derive(Args, Clone, Debug)]
pub struct RecipeArgs {
    /// The strong model: a directory or a .gguf file.
    #[arg(long, value_name = "MODEL")]
    pub strong: String,
    /// The weak model: a directory or a .gguf file.
    #[arg(long, value_name = "MODEL")]
    pub weak: String,
    /// A settings file, or the name of a preset.
    #[arg(long, value_name = "FILE|PRESET", default_value = "gsm8k-jargon")]
    pub config: String,
    /// Overrides one setting; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where everything goes; a directory that an interrupted recipe left is gone on with.
    #[arg(long, value_name = "DIR", default_value = "runs/gsm8k-jargon")]
    pub out: PathBuf,
    /// Actor processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub actors: u32,
    /// Also evaluate start, tandem and control on GSM8K's test set.
    #[arg(long)]
    pub test_set: bool,
}

#[derive(Args, Clone, Debug)]
pub struct CredentialsArgs {
    /// A new or empty directory.
    pub dir: PathBuf,
    /// Leave a directory that holds them already as it is.
    #[arg(long)]
    pub keep: bool,
    /// For Prometheus and Grafana, which run as other users: the files' group may read the token,
    /// and there is a password for Grafana, random or that of the variable GRAFANA_PASSWORD.
    #[arg(long)]
    pub observers: bool,
    /// A name or an address that processes are reached by, beside this machine's; may be repeated.
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// How long the certificates are valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Print all settings as they resolve.
    Show(ConfigArgs),
    /// Report every fault of the settings.
    Check(ConfigArgs),
}

/// A wrong use of the command line: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl ConfigArgs {
    /// # Errors
    /// All faults of the settings.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        self.with(Vec::new())
    }

    /// The same with more `KEY=VALUE` on top.
    ///
    /// # Errors
    /// All faults of the settings.
    pub fn with(&self, more: Vec<String>) -> Result<Settings, SettingsError> {
        let set = self.set.iter().cloned().chain(more).collect();
        Layers { file: self.config.clone(), set, environment: None }.load()
    }

    /// What a run of these settings is called.
    #[must_use]
    pub fn name(&self) -> String {
        let file = self.config.as_deref().and_then(|name| std::path::Path::new(name).file_name());
        let file = file.map_or("miniature".into(), |file| file.to_string_lossy());
        // The names of presets may have full stops of their own.
        file.strip_suffix(".toml").unwrap_or(&file).to_owned()
    }
}

/// # Errors
/// The test set as what a run would look at while it trains.
pub fn refuse_test_set(settings: &Settings) -> Result<(), UsageError> {
    match settings.eval.split {
        EvalSplit::HeldOut => Ok(()),
        EvalSplit::Test => Err(UsageError(
            "eval.split is test, but a run that trains looks at held-out problems only: leave it \
             out here and run `coordinator eval RUN --split test` afterwards"
                .to_owned(),
        )),
    }
}

/// `--steps` and `--seed` as settings.
#[must_use]
pub fn shorthand(steps: Option<u32>, seed: Option<u64>) -> Vec<String> {
    let steps = steps.map(|steps| format!("train.steps={steps}"));
    let seed = seed.map(|seed| format!("seed={seed}"));
    steps.into_iter().chain(seed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn runs_are_named_after_their_settings() {
        let named = |name: Option<&str>| {
            ConfigArgs { config: name.map(str::to_owned), set: Vec::new() }.name()
        };
        assert_eq!(named(None), "miniature");
        assert_eq!(named(Some("gsm8k-smoke")), "gsm8k-smoke");
        assert_eq!(named(Some("config/mine.toml")), "mine");
        assert_eq!(named(Some("gsm8k-qwen2.5-0.5b")), "gsm8k-qwen2.5-0.5b");
    }

    #[test]
    fn eval_takes_a_run_or_settings_but_not_both() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["coordinator", "eval"], args].concat());
        assert!(parse(&["runs/a"]).is_ok() && parse(&["--config", "miniature"]).is_ok());
        assert!(parse(&[]).is_err() && parse(&["runs/a", "--config", "x"]).is_err());
        assert!(parse(&["runs/a", "--split", "test"]).is_ok());
        assert!(parse(&["runs/a", "--split", "train"]).is_err());
    }
}
