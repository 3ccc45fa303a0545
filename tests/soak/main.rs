//! A long run in which a random process is killed or stopped every few seconds, and what came of it.
//! `just soak` builds and starts it; see docs/reliability.md.

mod faults;
mod report;
mod run;
mod samples;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::faults::{Draws, Fault};
use crate::report::Report;
use crate::run::SoakRun;
use crate::samples::Sampler;

/// Between two faults.
const PAUSE_SECONDS: (u64, u64) = (5, 15);
/// How long a stopped process stays so.
const STOPPED: Duration = Duration::from_secs(4);
/// After a fault the next step must be committed by then.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// The coordinator is killed so often, in equal distances.
const COORDINATOR_KILLS: u32 = 2;

struct Plan {
    seconds: u64,
    seed: u64,
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let plan = plan()?;
    let report = soak(&plan)?;
    println!("{}", report.text());
    report.check()
}

fn plan() -> anyhow::Result<Plan> {
    let mut plan = Plan { seconds: 1800, seed: 1, dir: PathBuf::from("runs/soak") };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--seconds" => plan.seconds = value.parse().context("--seconds")?,
            "--seed" => plan.seed = value.parse().context("--seed")?,
            "--run-dir" => plan.dir = PathBuf::from(value),
            other => bail!("{other} is none of --seconds, --seed, --run-dir"),
        }
    }
    ensure!(!plan.dir.exists(), "{} exists: remove it or give --run-dir", plan.dir.display());
    Ok(plan)
}

fn soak(plan: &Plan) -> anyhow::Result<Report> {
    let mut run = SoakRun::start(plan.dir.clone())?;
    run.wait_for_steps(2, RECOVERY_MAX)?;
    let sampler = Sampler::start(&run);
    let (started, length) = (Instant::now(), Duration::from_secs(plan.seconds));
    let mut draws = Draws::new(plan.seed);
    let mut report = Report::new(plan.seed);
    let mut coordinator_kills = 0;
    while started.elapsed() < length {
        pause(Duration::from_secs(draws.between(PAUSE_SECONDS)));
        let part = length / (COORDINATOR_KILLS + 1) * (coordinator_kills + 1);
        let fault = match coordinator_kills < COORDINATOR_KILLS && started.elapsed() >= part {
            true => {
                coordinator_kills += 1;
                Fault::KillCoordinator
            }
            false => Fault::draw(&mut draws, &run.names()),
        };
        let (before, at) = (run.steps(), Instant::now());
        sampler.fault_begins();
        eprintln!("{:7.1} s  {fault}, after step {before}", started.elapsed().as_secs_f64());
        commit_fault(&fault, &mut run)?;
        // Two steps: the one in hand may have been through already.
        run.wait_for_steps(before + 2, RECOVERY_MAX)?;
        run.wait_for_all(RECOVERY_MAX)?;
        sampler.fault_ends();
        report.note(&fault, at.elapsed());
    }
    report.samples = sampler.finish();
    report.end = run.end()?;
    Ok(report)
}

fn commit_fault(fault: &Fault, run: &mut SoakRun) -> anyhow::Result<()> {
    match fault {
        Fault::Kill(name) => run.kill(name),
        Fault::Stop(name) => run.stop_for(name, STOPPED),
        Fault::KillCoordinator => run.kill_coordinator_and_resume(),
    }
}

/// Faults come when they come.
fn pause(length: Duration) {
    let until = Instant::now() + length;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
