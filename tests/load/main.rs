//! A real coordinator under many members that compute nothing: each has a connection of its own,
//! gives a sign of life every second and asks for work every two. `just load` builds and starts it;
//! see docs/performance.md.

mod actor;
mod figures;
mod learner;
mod member;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use proto::ChannelSettings;
use runtime::{Shutdown, TaskGroup};
use tokio::time::{Instant, MissedTickBehavior};

use crate::figures::Figures;
use crate::learner::Desk;
use crate::server::Server;

/// Threads of this process; the coordinator has its own.
const THREADS: usize = 2;
const SAMPLE: Duration = Duration::from_secs(1);
/// Everybody is here and at work by then.
const START_MAX: Duration = Duration::from_secs(60);
/// What comes before is not measured.
const WARM_UP: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(10);

struct Plan {
    seconds: u64,
    actors: u32,
    dir: PathBuf,
    coordinator: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let plan = plan()?;
    // A connection of each member, at both ends.
    server::allow_files(u64::from(plan.actors) * 2 + 512)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let figures = runtime.block_on(load(&plan))?;
    println!("{}", figures.table());
    let path = plan.dir.join("load.json");
    std::fs::write(&path, figures.json(plan.actors).to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    figures.check()
}

fn plan() -> anyhow::Result<Plan> {
    let (dir, coordinator) = ("runs/load".into(), "target/release/coordinator".into());
    let mut plan = Plan { seconds: 600, actors: 1_000, dir, coordinator };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--seconds" => plan.seconds = value.parse().context("--seconds")?,
            "--actors" => plan.actors = value.parse().context("--actors")?,
            "--run-dir" => plan.dir = PathBuf::from(value),
            "--coordinator" => plan.coordinator = PathBuf::from(value),
            other => {
                bail!("{other} is none of --seconds, --actors, --run-dir, --coordinator");
            }
        }
    }
    ensure!(!plan.dir.exists(), "{} exists: remove it or give --run-dir", plan.dir.display());
    Ok(plan)
}

async fn load(plan: &Plan) -> anyhow::Result<Figures> {
    let mut server = Server::start(&plan.coordinator, &plan.dir, plan.actors)?;
    let address = server.address(START_MAX).await?;
    let tasks = TaskGroup::new(Shutdown::new());
    let figures = Arc::new(Figures::default());
    let desk = Arc::new(Desk::default());
    let channel = ChannelSettings::default();
    member::weak_server(&tasks, &address, &channel).await?;
    let groups = u64::from(plan.actors);
    learner::start(&tasks, (&address, &channel), Arc::clone(&desk), Arc::clone(&figures), groups)
        .await?;
    for index in 0..plan.actors {
        let actor = actor::Actor::join(&address, &channel, index, &tasks).await?;
        let (desk, figures) = (Arc::clone(&desk), Arc::clone(&figures));
        tasks.spawn(format!("actor {index}"), actor.work(desk, figures, tasks.shutdown().wait()));
    }
    eprintln!("{} actors are there, measuring for {} s", plan.actors, plan.seconds);
    tokio::time::sleep(WARM_UP).await;
    figures.begin(desk.steps());
    watch(plan, &server, &tasks, &figures).await?;
    figures.end(desk.steps());
    tasks.shutdown().trigger("measured for long enough");
    tasks.join(STOP_GRACE).await?;
    server.stop()?;
    Arc::into_inner(figures).context("every task has ended")
}

/// Looks at the coordinator's process until the time is over or something fails.
async fn watch(
    plan: &Plan,
    server: &Server,
    tasks: &TaskGroup,
    figures: &Figures,
) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        if tasks.shutdown().requested() {
            tasks.join(STOP_GRACE).await?;
            bail!("a member has ended early");
        }
        figures.sample(server.usage()?);
    }
    Ok(())
}
