//! One set of processes working towards one end: service up, children up, events reported,
//! everything down again. Which work that is, is in the `RunSpec`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use proto::WeightFiles;
use runtime::{Shutdown, StopReason, TaskGroup, describe_exit, within};
use security::{Listener, Protocol};
use serde_json::json;
use settings::Settings;
use tokio::time::MissedTickBehavior;
use types::{Generation, WeightManifest};

use crate::USAGE;
use crate::children::{Children, Ended, Exit, Launcher};
use crate::disk;
use crate::host::Host;
use crate::hub::{Hub, Records};
use crate::journal::{Journal, JournalLimits};
use crate::membership::MemberCounts;
use crate::metrics;
use crate::metrics_log::MetricsLog;
use crate::overrides;
use crate::placement;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::restarts::Restarts;
use crate::resume::History;
use crate::run_dir::RunDir;
use crate::service::{ServiceLimits, service};
use crate::shard::Place;
use crate::source::Source;
use crate::spec::RunSpec;
use crate::state::{Event, Phase, RunState, Stage};
use crate::stop_plan::StopPlan;
use crate::summary::write_json;
use crate::track::{Standing, Status, Trackers};

/// Of weights that no learner publishes.
pub(crate) const GIVEN: Generation = Generation(1);

/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What open calls may still take once all children are gone.
pub(crate) const SERVICE_GRACE: Duration = Duration::from_millis(500);

/// Everything one session needs.
pub struct Job<'a> {
    pub settings: &'a Settings,
    pub spec: RunSpec,
    pub source: Source,
    pub run_dir: &'a RunDir,
    /// What was before, and where what happens is written down; none: nothing can be resumed.
    pub history: Option<History>,
    /// Whether this process starts the others.
    pub starts: bool,
    /// Served as the current version, where no learner publishes one.
    pub weights: Option<GivenWeights>,
    /// `KEY=VALUE` for the children, over the run's `config.toml`.
    pub overrides: Vec<String>,
    /// Put before the names of the children's logs.
    pub log_prefix: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    Stopped(StopReason),
}

/// A session that ended in order.
pub struct Finished {
    pub hub: Hub,
    pub ending: Ending,
    /// Children that did not end as they should have once the work was done.
    pub complaints: Vec<String>,
}

/// Runs a session; every child is gone when this returns.
///
/// # Errors
/// A child that dies, a run that cannot go on, files or ports that cannot be used.
pub async fn run(job: Job<'_>, host: &Host) -> anyhow::Result<Finished> {
    let Job { settings, run_dir, starts, log_prefix, .. } = job;
    let listen = &settings.coordinator.listen;
    let listener =
        Listener::bind(listen, "coordinator.listen", Protocol::Grpc, &host.guard).await?;
    let address = listener.address();
    let trains = job.spec.training.is_some();
    let steps = job.spec.training.as_ref().map_or(0, |training| training.steps);
    let members = job.spec.members;
    let plan = match starts {
        true => placement::plan(settings, members, trains)?,
        false => Plan::default(),
    };
    let service_tasks = TaskGroup::new(Shutdown::new());
    let what = (job.spec, job.source);
    let hub = open_hub(what, (job.history, job.weights), run_dir, &service_tasks, settings).await?;
    host.discovery.follow(hub.clone());
    spawn_service(&service_tasks, listener, &hub, settings);
    let trackers = open_trackers(settings, run_dir, &hub)?;
    if trains {
        let (readiness, stop) = (host.readiness.clone(), service_tasks.shutdown().clone());
        service_tasks.spawn("disk", disk::watch(settings, run_dir, readiness, stop));
    }

    let stop_plan = StopPlan::new(Duration::from_secs_f64(settings.shutdown.grace_seconds));
    let mut set = job.overrides;
    set.extend(of_children(settings, (members, trains), &stop_plan));
    let launcher = Launcher {
        run_dir,
        coordinator: reachable(address).to_string(),
        overrides: &set,
        log_prefix,
    };
    let children = Children::start(&plan, launcher)?;
    tracing::info!(%address, admin = host.admin_address, "coordinating");
    let mut driver = Driver {
        host,
        hub: hub.clone(),
        children,
        restarts: Restarts::new(settings.coordinator.restarts_max),
        service: service_tasks.shutdown().clone(),
        progress: Progress::new(steps),
        run_dir,
        log_prefix,
        trackers,
        address: address.to_string(),
        changes: 0,
    };
    driver.write_processes()?;
    let driven = driver.drive().await;
    host.readiness.keep("run", driven.is_ok());
    driver.progress.finish();
    driver.trackers.close(status(&driven));
    let ended = match (&driven, starts) {
        // Whoever started the others may start this process again, and they wait for it.
        (Ok(Ending::Stopped(_)) | Err(_), false) => Ok(Ended::default()),
        _ => driver.wind_down(&stop_plan).await,
    };
    driver.trackers.finish(settings).await;
    service_tasks.shutdown().trigger("the session is over");
    let served = service_tasks.join(SERVICE_GRACE).await;
    hub.keep_files(&[]);
    let ending = match (driven, served) {
        (Err(failure), Err(service)) if starts => {
            return Err(service.context(format!("{failure:#}")));
        }
        // The others were told nothing, so that their streams are open yet.
        (Err(failure), _) => return Err(failure),
        (Ok(ending), _) => ending,
    };
    Ok(Finished { hub, ending, complaints: complaints(&ended?) })
}

type GivenWeights = (WeightManifest, Vec<u8>);

/// The run's state, with what was before and the weights that are given.
async fn open_hub(
    (spec, source): (RunSpec, Source),
    (history, weights): (Option<History>, Option<GivenWeights>),
    run_dir: &RunDir,
    tasks: &TaskGroup,
    settings: &Settings,
) -> anyhow::Result<Hub> {
    let trains = spec.training.is_some();
    let (state, records) = match history {
        Some(history) => resume(history, (spec, source), run_dir, tasks, settings)?,
        None => {
            let log = trains.then(|| MetricsLog::create(&run_dir.metrics())).transpose()?;
            (RunState::new(spec, source), Records { log, ..Records::default() })
        }
    };
    // Nobody but a run that trains has the directory for itself.
    let weight_files = settings.weights_dir().filter(|_| trains).map(WeightFiles::new);
    let records = Records { weight_files, ..records };
    let hub = Hub::new(state, settings.coordinator.weights_kept, records);
    hub.keep_files(&[]);
    if let Some((manifest, bytes)) = weights {
        let hub = hub.clone();
        // Nothing that is resumed has weights of its own, so that no ticket is waited for.
        runtime::off_workers(move || hub.publish(manifest, bytes).map(drop)).await?;
    }
    Ok(hub)
}

/// Those that the settings name, with what the run has done so far.
fn open_trackers(settings: &Settings, run_dir: &RunDir, hub: &Hub) -> anyhow::Result<Trackers> {
    let wall = hub.now();
    hub.with(|state| {
        if state.spec().training.is_none() {
            return Ok(Trackers::default());
        }
        let (run, step, before) = (state.spec().run, state.committed(), state.before());
        Trackers::open(settings, run_dir, &Standing { run, step, wall, before })
    })
}

/// How the run ended, as trackers are told.
fn status(driven: &anyhow::Result<Ending>) -> Status {
    match driven {
        Ok(Ending::Done) => Status::Done,
        Ok(Ending::Stopped(_)) => Status::Stopped,
        Err(_) => Status::Failed,
    }
}

/// What children are told over the run's settings.
fn of_children(
    settings: &Settings,
    (members, trains): (MemberCounts, bool),
    stop: &StopPlan,
) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut set = overrides::pinned(settings, names);
    set.push(format!("shutdown.grace_seconds={}", stop.child.as_secs_f64()));
    set.extend(overrides::free_admin_port(settings));
    set.extend(overrides::weak_room(settings, members));
    if !trains {
        // One version, which this process serves.
        set.extend(["weights.shared_dir=\"\"", "weights.store=false"].map(str::to_owned));
    }
    set
}

/// The state that a journal leaves, with the files that follow from it brought in line.
fn resume(
    History { journal, surviving }: History,
    (spec, source): (RunSpec, Source),
    run_dir: &RunDir,
    tasks: &TaskGroup,
    settings: &Settings,
) -> anyhow::Result<(RunState, Records)> {
    let state = RunState::resumed(spec, source, &surviving)?;
    let log = MetricsLog::replace(&run_dir.metrics(), &surviving.committed)?;
    if run_dir.evaluations().exists() {
        MetricsLog::create(&run_dir.evaluations())?.cut_after(surviving.step())?;
    }
    let journal = Journal::start(journal, tasks, JournalLimits::new(settings))
        .context("no thread for the journal")?;
    let earlier = surviving.committed.last().map_or(Duration::ZERO, |(_, wall)| *wall);
    let records = Records { log: Some(log), journal: Some(journal), earlier, weight_files: None };
    Ok((state, records))
}

struct Driver<'a> {
    host: &'a Host,
    hub: Hub,
    children: Children<'a>,
    restarts: Restarts,
    service: Shutdown,
    progress: Progress,
    run_dir: &'a RunDir,
    log_prefix: &'a str,
    trackers: Trackers,
    /// Where it listens for the other programs.
    address: String,
    /// Of the members, when they were last written down.
    changes: u64,
}

impl Driver<'_> {
    async fn drive(&mut self) -> anyhow::Result<Ending> {
        let mut revisions = self.hub.revisions();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.host.signals.wait() => {
                    let reason = self.host.signals.reason().unwrap_or(StopReason::Interrupted);
                    return Ok(Ending::Stopped(reason));
                }
                () = self.service.wait() => bail!("the coordinator's service ended"),
                exit = self.children.next_exit() => self.after(&exit?)?,
                _ = revisions.changed() => {}
                _ = ticks.tick() => {
                    self.host.health.beat();
                    let now = self.hub.now();
                    self.hub.change(|state| state.tick(now));
                }
            }
            if self.report()? {
                return Ok(Ending::Done);
            }
        }
    }

    /// A child that ends before it was told to is started again, while that helps. One that the
    /// run has not seen yet, or that was started wrongly, would end in the same way once more.
    fn after(&mut self, exit: &Exit) -> anyhow::Result<()> {
        let (role, index) = (exit.process.role, exit.process.index);
        let now = self.hub.now();
        let (known, needed, progress) = self.hub.change(|state| {
            let known = state.members().has_been(role, index);
            state.ended(role, index, now);
            (known, state.needs(role), state.progress())
        });
        let name = exit.process.name();
        if !needed {
            tracing::info!(name, "has ended and is not needed any more");
            return Ok(());
        }
        if !known || exit.status.code() == Some(i32::from(USAGE)) {
            bail!("{}", exit.report());
        }
        let Some((delay, count)) = self.restarts.next(&name, progress) else {
            let limit = self.restarts.limit();
            bail!(
                "{}\nit was started again {limit} times and the run did not get on \
                 (coordinator.restarts_max)",
                exit.report()
            );
        };
        let (how, seconds) = (describe_exit(exit.status), delay.as_secs_f64());
        tracing::warn!(name, how, seconds, count, "is started again");
        self.progress.line(&format!("{name} {how} and is started again"));
        metrics::RESTARTS.increment(1, &[("program", role.name())]);
        self.children.start_again(exit.process.clone(), delay);
        Ok(())
    }

    /// Passes on what happened; true when the work is done.
    fn report(&mut self) -> anyhow::Result<bool> {
        let (events, phase, eval, changes) = self.hub.with(|state| {
            let (events, changes) = (state.take_events(), state.members().changes());
            (events, state.phase().clone(), state.eval_progress(), changes)
        });
        if self.changes != changes {
            self.changes = changes;
            self.write_processes()?;
        }
        for event in &events {
            self.note(event)?;
            self.progress.event(event);
        }
        if let Some((done, due)) = eval {
            self.progress.evaluating(done, due);
        }
        match phase {
            Phase::Done => Ok(true),
            Phase::Failed(why) => bail!("{why}; see the logs in {}/logs", self.run_dir.shown()),
            _ => Ok(false),
        }
    }

    fn note(&self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Entered(Phase::Failed(_)) => {}
            Event::Committed(record) => self.trackers.step(record, self.hub.now()),
            Event::Entered(phase) => {
                tracing::info!(?phase, "entered");
                self.host.readiness.set("members");
            }
            Event::Left(name) => tracing::warn!(name, "a member is gone"),
            Event::TooFewActors { here, least } => {
                tracing::warn!(here, least, "too few actors: no work is dealt");
            }
            Event::EnoughActors => tracing::info!("enough actors: work is dealt again"),
            Event::Formed { generation, step } => {
                tracing::info!(%generation, step, "the learner's ranks are there");
            }
            Event::RolledBack { generation, step, undone } => {
                tracing::warn!(%generation, step, undone, "steps are undone");
                metrics::ROLLED_BACK.increment(u64::from(*undone), &[]);
                self.run_dir.forget_evaluations_after(*step)?;
                let evaluations = self.run_dir.evaluations();
                if evaluations.exists() {
                    MetricsLog::create(&evaluations)?.cut_after(*step)?;
                }
                self.trackers.undone(*step);
            }
            Event::Dealing(Place { epoch, shard, .. }) => {
                tracing::info!(epoch, shard, "dealing from a new shard");
            }
            Event::Evaluated { stage, step, result } => {
                metrics::set_evaluation(*stage, result);
                let now = self.hub.now();
                self.trackers.evaluated(*step, result, now);
                if *stage != Stage::Before {
                    self.run_dir.record_evaluation(*step, result)?;
                }
                if *stage == Stage::During {
                    let mut log = MetricsLog::create(&self.run_dir.evaluations())?;
                    log.evaluation(*step, result, now)?;
                }
            }
        }
        Ok(())
    }

    /// Where every process answers on its admin port.
    fn write_processes(&self) -> anyhow::Result<()> {
        let ids = self.children.ids();
        let mut list = vec![json!({
            "name": "coordinator",
            "pid": std::process::id(),
            "address": self.address,
            "admin": self.host.admin_address,
        })];
        self.hub.with(|state| {
            for member in state.members().all() {
                let name = member.name();
                let pid = ids.iter().find(|(known, _)| *known == name).and_then(|(_, pid)| *pid);
                list.push(json!({ "name": name, "pid": pid, "admin": member.admin_address }));
            }
        });
        let path = self.run_dir.processes(self.log_prefix);
        write_json(&path, &list).with_context(|| format!("cannot write {}", path.display()))
    }

    async fn wind_down(&mut self, plan: &StopPlan) -> anyhow::Result<Ended> {
        self.hub.change(RunState::stop);
        self.await_leaving(plan.terminate).await;
        let ended = self.children.end(plan).await?;
        for name in &ended.forced {
            tracing::warn!(name, "did not end in time and was ended");
        }
        Ok(ended)
    }

    /// Others than children hear of the stop as long as this process is there to tell them.
    async fn await_leaving(&self, limit: Duration) {
        if !self.children.ids().is_empty() {
            return;
        }
        let mut revisions = self.hub.revisions();
        let gone = revisions.wait_for(|_| !self.hub.with(|state| state.members().any_watches()));
        if let Err(late) = within("the members to leave", limit, gone).await {
            tracing::warn!(%late, "the others may not know that the run is over");
        }
    }
}

fn complaints(ended: &Ended) -> Vec<String> {
    let forced = ended.forced.iter().map(|name| {
        format!("{name} did not end within its part of shutdown.grace_seconds and was ended")
    });
    let failed = ended.exits.iter().filter(|exit| !exit.status.success());
    let failed =
        failed.filter(|exit| !ended.forced.contains(&exit.process.name())).map(Exit::report);
    forced.chain(failed).collect()
}

fn spawn_service(tasks: &TaskGroup, listener: Listener, hub: &Hub, settings: &Settings) {
    let service = service(hub.clone(), ServiceLimits::new(settings));
    let stop = tasks.shutdown().wait();
    tasks.spawn("service", async move {
        let (mut server, incoming) = proto::accept(listener);
        let server = server.add_service(service);
        server.serve_with_incoming_shutdown(incoming, stop).await.context("the service failed")
    });
}

/// Children on this machine cannot connect to `0.0.0.0`.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    }
    address
}
