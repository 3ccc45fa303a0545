//! The process around a command: async runtime, log file, metrics, admin port, signals. What the
//! command does is its own file's.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::{Shutdown, TaskGroup};
use security::Guard;
use settings::Settings;
use telemetry::{AdminServer, AdminState, Exporter, Exporting, Health, JsonRoute, Readiness};

use crate::discovery::Discovery;
use crate::metrics;

/// What tasks may still take once the command is done.
pub(crate) const JOIN_GRACE: Duration = Duration::from_millis(500);

/// What a command finds when it runs.
pub struct Host {
    pub started: Instant,
    /// Triggered by Ctrl-C and SIGTERM; a second one ends the process at once.
    pub signals: Shutdown,
    pub readiness: Readiness,
    pub health: Health,
    pub admin_address: String,
    /// What the admin port lists.
    pub discovery: Discovery,
    /// Who may talk to this process.
    pub guard: Guard,
}

/// Runs a command from start to end inside a process that is ready for it.
///
/// # Errors
/// The command's own, or a process that cannot be set up.
pub fn run<T>(
    settings: &Settings,
    log: &Path,
    command: impl AsyncFnOnce(&Host) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    runtime.block_on(async {
        let _exporting = log_to(log, settings)?;
        let signals = Shutdown::new();
        let closing = Shutdown::new();
        let tasks = TaskGroup::new(closing.clone());
        runtime::listen_for_signals(&tasks, signals.clone())
            .context("cannot listen for signals")?;
        let readiness = Readiness::new(&["members"]);
        let limit = Duration::from_millis(u64::from(settings.admin.progress_limit_ms));
        let health = Health::of_progress(limit);
        let guard = Guard::open(settings)?;
        let admin = AdminServer::bind(&settings.admin.listen, &guard).await?;
        let admin_address = admin.address().to_string();
        let discovery = Discovery::default();
        let answers = (readiness.clone(), health.clone(), discovery.route());
        serve_admin(admin, &tasks, answers)?;
        let host = Host { started, signals, readiness, health, admin_address, discovery, guard };
        let done = command(&host).await;
        closing.trigger("the command is done");
        let joined = tasks.join(JOIN_GRACE).await;
        done.and_then(|value| joined.map(|()| value))
    })
}

fn serve_admin(
    admin: AdminServer,
    tasks: &TaskGroup,
    (readiness, health, targets): (Readiness, Health, JsonRoute),
) -> anyhow::Result<()> {
    let exporter = Exporter::install(&[])?;
    telemetry::describe(metrics::ALL);
    let state = AdminState { exporter, health, readiness, json: vec![targets] };
    let stop = tasks.shutdown().wait();
    tasks.spawn("admin", async move {
        admin.serve(state, stop).await;
        Ok(())
    });
    Ok(())
}

/// The terminal belongs to progress and results, so log lines go to a file.
fn log_to(path: &Path, settings: &Settings) -> anyhow::Result<Exporting> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot write the log {}", path.display()))?;
    let format = match settings.log.format {
        settings::LogFormat::Text => telemetry::LogFormat::Text,
        settings::LogFormat::Json => telemetry::LogFormat::Json,
    };
    telemetry::init_file_logging(format, &settings.log.filter, "coordinator", file)
}
