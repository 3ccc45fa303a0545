//! `coordinator launch`: a whole training run on this machine. `coordinator serve`: the same, but
//! others start the processes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use runtime::unique_number;
use settings::{Objective, Resume, Settings};

use crate::cli::{LaunchArgs, ServeArgs, UsageError, refuse_test_set, shorthand};
use crate::disk;
use crate::host::{self, Host};
use crate::models::make_absolute;
use crate::output::say;
use crate::placement;
use crate::resume::{self, History, Processes};
use crate::run_dir::{CheckpointChoice, RunDir};
use crate::session::{self, Ending, Finished, Job};
use crate::source::Source;
use crate::spec::RunSpec;
use crate::summary::{Cost, Summary, write_json};
use crate::table::{Column, table};

/// Returns the exit code.
///
/// # Errors
/// Wrong settings or flags, or a run that fails.
pub fn launch(args: &LaunchArgs) -> anyhow::Result<u8> {
    if args.resume {
        return resume(args, true);
    }
    let settings = args.config.with(Vec::new())?;
    let dir = args.run_dir.clone().unwrap_or_else(|| PathBuf::from(&settings.run.dir));
    match settings.run.resume {
        Resume::Auto if !args.dry_run => {
            begin_or_resume(&LaunchArgs { run_dir: Some(dir), ..args.clone() }, true)
        }
        _ => begin(args, true),
    }
}

/// Whoever restarts this command after its end, whatever that was, need not know which it is:
/// a beginning, going on, or the end of a run that is complete.
///
/// # Errors
/// Those of `launch`.
pub fn serve(args: &ServeArgs) -> anyhow::Result<u8> {
    begin_or_resume(&args.as_launch(), false)
}

fn begin_or_resume(args: &LaunchArgs, starts: bool) -> anyhow::Result<u8> {
    let path = args.run_dir.as_deref().filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| {
        UsageError("run.resume is auto, which needs a directory: give --run-dir".to_owned())
    })?;
    if !RunDir::has_run(path) {
        return begin(args, starts);
    }
    if let Err(complete) = resume::check_unfinished(&RunDir::open(path)?) {
        say(&complete.to_string());
        return Ok(0);
    }
    resume(args, starts)
}

fn begin(args: &LaunchArgs, starts: bool) -> anyhow::Result<u8> {
    let mut settings = args.config.with(shorthand(args.steps, args.seed))?;
    if settings.train.objective == Objective::Sft {
        let config = args.config.config.as_deref().unwrap_or("FILE");
        let text = format!(
            "train.objective is sft, which needs no actors: run `coordinator sft --config {config}`"
        );
        return Err(UsageError(text).into());
    }
    refuse_test_set(&settings)?;
    let processes = Processes::of(args.counts, Processes::default());
    let (source, mut spec) = prepare(&settings, processes)?;
    if args.dry_run {
        let plan = placement::plan(&settings, spec.members, true)?;
        say(&format!("{}\n{}", plan.describe(), settings.to_toml()));
        return Ok(0);
    }
    let run_dir = create(&mut settings, args.run_dir.as_deref(), &args.config.name())?;
    disk::check(&settings, &run_dir)?;
    let launched = run_dir.launched();
    write_json(&launched, &processes)
        .with_context(|| format!("cannot write {}", launched.display()))?;
    spec.run = unique_number();
    let history = resume::new_history(&run_dir, spec.run)?;
    run(&settings, &run_dir, (source, spec), (history, starts))
}

/// Goes on with a run where its history ends.
fn resume(args: &LaunchArgs, starts: bool) -> anyhow::Result<u8> {
    let path = args.run_dir.as_deref().context("--resume needs --run-dir")?;
    let run_dir = RunDir::take_over(path)?;
    let settings = resume::settings(&run_dir, &args.config, shorthand(args.steps, args.seed))?;
    resume::check_unfinished(&run_dir)?;
    disk::check(&settings, &run_dir)?;
    let processes = Processes::of(args.counts, Processes::read(&run_dir)?);
    let (source, mut spec) = prepare(&settings, processes)?;
    let history = resume::history(&run_dir)?;
    going_on(&mut spec, &history, &settings)?;
    run(&settings, &run_dir, (source, spec), (history, starts))
}

/// Another coordinator goes on with the run of this history, and says so.
///
/// # Errors
/// A journal of nobody's.
pub fn going_on(spec: &mut RunSpec, history: &History, settings: &Settings) -> anyhow::Result<()> {
    spec.run = history.surviving.run.context("the journal does not say whose it is")?;
    // There is room above for all that this coordinator grants.
    spec.first_lease = unique_number() >> 1;
    eprintln!("going on after step {} of {}", history.surviving.step(), settings.train.steps);
    Ok(())
}

fn prepare(settings: &Settings, processes: Processes) -> anyhow::Result<(Source, RunSpec)> {
    let source = Source::open(settings)?;
    let mut spec = RunSpec::launch(settings, &source, processes.actors).map_err(UsageError)?;
    spec.members = processes.counts();
    Ok((source, spec))
}

fn run(
    settings: &Settings,
    run_dir: &RunDir,
    (source, spec): (Source, RunSpec),
    (history, starts): (History, bool),
) -> anyhow::Result<u8> {
    let spec = if starts { spec } else { spec.served(settings) };
    let shown = run_dir.shown().to_string();
    let ran = host::run(settings, &run_dir.log("coordinator"), async |host| {
        eprintln!("run directory {}, metrics of this process on {}", shown, host.admin_address);
        let job = Job {
            settings,
            spec,
            source,
            run_dir,
            history: Some(history),
            starts,
            weights: None,
            overrides: Vec::new(),
            log_prefix: "",
        };
        conclude(session::run(job, host).await?, host, (settings, starts), run_dir)
    });
    let again = again(starts);
    ran.with_context(|| {
        format!("the run in {shown} failed; `coordinator {again} --run-dir {shown}` goes on")
    })
}

/// The command that goes on with a run.
fn again(starts: bool) -> &'static str {
    if starts { "launch --resume" } else { "serve" }
}

/// A fresh run directory with the resolved settings in it; paths in them become absolute, so that
/// the run can be evaluated from anywhere.
///
/// # Errors
/// A directory that is not fresh or cannot be written.
pub fn create(
    settings: &mut Settings,
    requested: Option<&Path>,
    name: &str,
) -> anyhow::Result<RunDir> {
    let configured = Some(PathBuf::from(&settings.run.dir)).filter(|p| !p.as_os_str().is_empty());
    let requested = requested.map(Path::to_owned).or(configured);
    let run_dir = RunDir::create(requested.as_deref(), name)?;
    settings.run.dir = run_dir.path().to_string_lossy().into_owned();
    make_paths_absolute(settings);
    let config = run_dir.config();
    fs::write(&config, settings.to_toml())
        .with_context(|| format!("cannot write {}", config.display()))?;
    Ok(run_dir)
}

/// Of what the settings name and is there.
pub(crate) fn make_paths_absolute(settings: &mut Settings) {
    let tensorboard = &mut settings.track.tensorboard;
    let is_path = !matches!(tensorboard.as_str(), "" | "auto");
    if let (true, Ok(absolute)) = (is_path, std::path::absolute(tensorboard.as_str())) {
        *tensorboard = absolute.to_string_lossy().into_owned();
    }
    let security = &mut settings.security;
    for path in [
        &mut settings.strong.model,
        &mut settings.weak.model,
        &mut settings.data.path,
        &mut security.token_file,
        &mut security.certificate,
        &mut security.key,
        &mut security.authority,
    ] {
        make_absolute(path);
    }
}

/// Summary and table, or how far the run came.
fn conclude(
    finished: Finished,
    host: &Host,
    (settings, starts): (&Settings, bool),
    run_dir: &RunDir,
) -> anyhow::Result<u8> {
    if let Ending::Stopped(reason) = &finished.ending {
        let committed = finished.hub.with(|state| state.committed());
        report_stop(&reason.to_string(), committed, settings, (run_dir, again(starts)));
        if !starts {
            let seconds = settings.coordinator.return_timeout_ms / 1000;
            eprintln!("the other processes wait {seconds} s for the next coordinator");
        }
        return Ok(reason.exit_code());
    }
    let cost = cost(host)?;
    let summary = finished.hub.with(|state| Summary::of(state, settings.seed, cost));
    let path = run_dir.summary();
    summary.write(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if summary.after.is_some() {
        let before = Column { heading: "before", result: summary.before.as_ref() };
        let after = Column { heading: "after", result: summary.after.as_ref() };
        say(&format!("\n{}", table(&[before, after])));
    }
    let tokens = summary.tokens.strong + summary.tokens.weak;
    let weak = 100.0 * summary.tokens.weak as f64 / tokens.max(1) as f64;
    say(&format!(
        "{} steps, {} groups, {weak:.1}% of {tokens} tokens weak, {:.1} s wall, {:.1} s CPU",
        summary.steps, summary.groups.consumed, summary.wall_seconds, summary.cpu_seconds
    ));
    let shown = run_dir.shown();
    say(&format!(
        "all of it is in {shown}: summary.json, metrics.jsonl, rollouts/, checkpoints/, logs/"
    ));
    say(&format!("go on with: coordinator eval {shown}"));
    complain(&finished.complaints)
}

/// Says how far a stopped run came and how to go on.
pub fn report_stop(
    reason: &str,
    committed: u32,
    settings: &Settings,
    (run_dir, again): (&RunDir, &str),
) {
    let shown = run_dir.shown();
    eprintln!("{reason} after step {committed} of {}", settings.train.steps);
    match run_dir.checkpoint(CheckpointChoice::Latest) {
        Ok(last) => {
            eprintln!("the last checkpoint is {shown}/checkpoints/step-{:06}", last.step);
            eprintln!("go on with: coordinator {again} --run-dir {shown}");
            eprintln!("evaluate it with: coordinator eval {shown}");
        }
        Err(error) => eprintln!("{error}"),
    }
}

/// Of all processes, once the children are gone.
///
/// # Errors
/// A system that does not say.
pub fn cost(host: &Host) -> anyhow::Result<Cost> {
    let wall_seconds = host.started.elapsed().as_millis() as f64 / 1e3;
    let cpu_seconds = runtime::cpu_seconds_self_and_children().context("cannot read CPU times")?;
    Ok(Cost { wall_seconds, cpu_seconds: (cpu_seconds * 1e3).round() / 1e3 })
}

/// Results stand, but processes that failed on the way out fail the command.
///
/// # Errors
/// Any complaint.
pub fn complain(complaints: &[String]) -> anyhow::Result<u8> {
    if complaints.is_empty() {
        return Ok(0);
    }
    anyhow::bail!("the results are complete, but {}", complaints.join("\n"))
}
