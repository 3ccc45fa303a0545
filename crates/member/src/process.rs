//! The `main` of a member: everything around its work.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use proto::{ChannelSettings, Role};
use runtime::{Shutdown, TaskGroup};
use security::{Guard, ListenError, Listener, Protocol};
use settings::Settings;
use telemetry::{AdminServer, AdminState, Exporter, Exporting, Health, Metric, Readiness};

use crate::join::Stopped;
use crate::last_word::LastWord;
use crate::{MemberArgs, Membership};

/// How long a process without its parent may live on.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);

/// What a program measures and waits for.
pub struct ProgramMetrics {
    pub metrics: &'static [&'static dyn Metric],
    /// Buckets by suffix, beside the common ones.
    pub buckets: &'static [(&'static str, &'static [f64])],
    /// Names of the latches that must be set before `/readyz` says yes.
    pub readiness: &'static [&'static str],
}

/// A running member, before and after it has joined.
#[derive(Clone)]
pub struct Process {
    pub settings: Arc<Settings>,
    pub role: Role,
    /// Among the processes of this role; none: the coordinator chooses.
    pub index: Option<u32>,
    pub tasks: TaskGroup,
    pub shutdown: Shutdown,
    pub readiness: Readiness,
    pub health: Health,
    pub admin_address: String,
    /// Who may talk to this process, and what it shows to others.
    pub guard: Guard,
    /// Once it has joined.
    pub membership: Arc<OnceLock<Membership>>,
}

impl Process {
    /// A learner's place among the ranks.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.index.unwrap_or_default()
    }

    #[must_use]
    pub fn channel_settings(&self) -> ChannelSettings {
        ChannelSettings::new(&self.guard)
    }

    /// Opens the port that the setting `key` names.
    ///
    /// # Errors
    /// It is in use, or other machines reach it and nothing protects it.
    pub async fn listen(&self, listen: &str, key: &'static str) -> Result<Listener, ListenError> {
        Listener::bind(listen, key, Protocol::Grpc, &self.guard).await
    }
}

/// Runs a member from its flags to its exit code: 0 after a stop that the coordinator directed.
pub fn run_member<F, Fut>(
    role: Role,
    args: MemberArgs,
    program: ProgramMetrics,
    body: F,
) -> ExitCode
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
        .and_then(|runtime| runtime.block_on(supervise(role, args, program, body)));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}: {error:#}", role.name());
            ExitCode::FAILURE
        }
    }
}

async fn supervise<F, Fut>(
    role: Role,
    args: MemberArgs,
    program: ProgramMetrics,
    body: F,
) -> anyhow::Result<u8>
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let settings = args.settings()?;
    let grace = Duration::from_secs_f64(settings.shutdown.grace_seconds);
    let (process, _exporting) = start(role, &args, settings, program).await?;
    let Process { tasks, shutdown, membership, .. } = process.clone();
    let worked = match body(process).await {
        Err(error) if error.is::<Stopped>() => Ok(()),
        worked => worked,
    };
    if worked.is_err() {
        shutdown.trigger("its work failed");
    }
    let joined = tasks.join(grace).await;
    let outcome = worked.and(joined);
    LastWord::of(&membership, &outcome).say().await;
    outcome?;
    Ok(shutdown.reason().map_or(0, |reason| reason.exit_code()))
}

async fn start(
    role: Role,
    args: &MemberArgs,
    settings: Settings,
    program: ProgramMetrics,
) -> anyhow::Result<(Process, Exporting)> {
    let index = match role {
        Role::Learner => Some(args.index.unwrap_or_default()),
        Role::Actor | Role::WeakServer => args.index,
    };
    let name = index.map_or_else(|| role.name().to_owned(), |index| role.name_of(index));
    let format = match settings.log.format {
        settings::LogFormat::Text => telemetry::LogFormat::Text,
        settings::LogFormat::Json => telemetry::LogFormat::Json,
    };
    let exporting = telemetry::init_logging(format, &settings.log.filter, &name)?;
    let exporter = Exporter::install(program.buckets)?;
    telemetry::describe(program.metrics);

    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new(shutdown.clone());
    runtime::listen_for_signals(&tasks, shutdown.clone()).context("cannot listen for signals")?;
    if args.exit_with_parent {
        runtime::exit_with_parent(shutdown.clone(), ORPHAN_GRACE)
            .context("cannot watch standard input")?;
    }

    let guard = Guard::open(&settings)?;
    let admin = AdminServer::bind(&settings.admin.listen, &guard).await?;
    let admin_address = admin.address().to_string();
    let readiness = Readiness::new(program.readiness);
    let limit = Duration::from_millis(u64::from(settings.admin.progress_limit_ms));
    let health = Health::of_progress(limit);
    let state = AdminState {
        exporter,
        health: health.clone(),
        readiness: readiness.clone(),
        json: Vec::new(),
    };
    let stop = shutdown.clone();
    tasks.spawn("admin", async move {
        admin.serve(state, stop.wait()).await;
        Ok(())
    });
    let process = Process {
        settings: Arc::new(settings),
        role,
        index,
        tasks,
        shutdown,
        readiness,
        health,
        admin_address,
        guard,
        membership: Arc::default(),
    };
    Ok((process, exporting))
}
