//! `coordinator sft`: supervised fine-tuning, then the gates that the result must pass.

use anyhow::Context;
use runtime::unique_number;
use settings::Settings;
use types::PolicyVersion;

use crate::cli::{SftArgs, refuse_test_set, shorthand};
use crate::disk;
use crate::eval::{read, use_checkpoint};
use crate::eval_plan::{EvalPlan, EvalResult};
use crate::gates::gates;
use crate::host::{self, Host};
use crate::hub::Hub;
use crate::launch::{complain, cost, create, going_on, report_stop};
use crate::output::say;
use crate::resume::{self, History};
use crate::run_dir::{CheckpointChoice, CheckpointDir, RunDir};
use crate::session::{self, Ending, GIVEN, Job};
use crate::source::Source;
use crate::spec::{RunSpec, held_out};
use crate::summary::Summary;
use crate::weight_store::manifest_of;

/// The command that goes on with a run.
const AGAIN: &str = "sft --resume";

/// Returns the exit code: 1 where a gate is missed.
///
/// # Errors
/// Wrong settings, or a run that fails.
pub fn sft(args: &SftArgs) -> anyhow::Result<u8> {
    let mut set = shorthand(args.steps, args.seed);
    set.push("train.objective=\"sft\"".to_owned());
    let (settings, run_dir, begun) = match (args.resume, &args.run_dir) {
        (true, Some(path)) => {
            let run_dir = RunDir::take_over(path)?;
            let settings = resume::settings(&run_dir, &args.config, set)?;
            resume::check_unfinished(&run_dir)?;
            (settings, run_dir, true)
        }
        _ => {
            let mut settings = args.config.with(set)?;
            refuse_test_set(&settings)?;
            // What is wrong with the data is said before a directory is made.
            Source::open(&settings)?;
            let run_dir = create(&mut settings, args.run_dir.as_deref(), &args.config.name())?;
            (settings, run_dir, false)
        }
    };
    let source = Source::open(&settings)?;
    disk::check(&settings, &run_dir)?;
    let mut spec = RunSpec::sft(&settings);
    let history = if begun {
        let history = resume::history(&run_dir)?;
        going_on(&mut spec, &history, &settings)?;
        history
    } else {
        spec.run = unique_number();
        resume::new_history(&run_dir, spec.run)?
    };
    let tuning = Tuning { settings: &settings, source, run_dir: &run_dir, actors: args.actors };
    host::run(&settings, &run_dir.log("coordinator"), async |host: &Host| {
        let admin = &host.admin_address;
        eprintln!("run directory {}, metrics of this process on {admin}", run_dir.shown());
        tuning.run(spec, history, host).await
    })
    .with_context(|| {
        let shown = run_dir.shown();
        format!("the run in {shown} failed; `coordinator {AGAIN} --run-dir {shown}` goes on")
    })
}

struct Tuning<'a> {
    settings: &'a Settings,
    source: Source,
    run_dir: &'a RunDir,
    /// That check the gates.
    actors: u32,
}

impl Tuning<'_> {
    async fn run(&self, spec: RunSpec, history: History, host: &Host) -> anyhow::Result<u8> {
        let job = Job {
            settings: self.settings,
            spec,
            source: self.source.clone(),
            run_dir: self.run_dir,
            history: Some(history),
            starts: true,
            weights: None,
            overrides: Vec::new(),
            log_prefix: "",
        };
        let tuned = session::run(job, host).await?;
        if let Ending::Stopped(reason) = tuned.ending {
            let committed = tuned.hub.with(|state| state.committed());
            report_stop(&reason.to_string(), committed, self.settings, (self.run_dir, AGAIN));
            return Ok(reason.exit_code());
        }
        complain(&tuned.complaints)?;
        let checkpoint = self.run_dir.checkpoint(CheckpointChoice::Latest)?;
        let measured = match self.settings.gates.problems {
            0 => Ok(None),
            problems => self.measure(&checkpoint, problems, host).await?.map(Some),
        };
        match measured {
            Ok(result) => self.conclude(&tuned.hub, &checkpoint, result, host),
            Err(exit_code) => Ok(exit_code),
        }
    }

    /// Evaluates the last checkpoint with actors; the inner error is the exit code of a stop.
    async fn measure(
        &self,
        checkpoint: &CheckpointDir,
        problems: u32,
        host: &Host,
    ) -> anyhow::Result<Result<EvalResult, u8>> {
        let problems = held_out(&self.source, problems);
        let plan = EvalPlan::gates(self.settings, problems, self.source.jargon_tokens());
        let bytes = read(&checkpoint.weights())?;
        let version = PolicyVersion { generation: GIVEN, step: checkpoint.step };
        let mut settings = self.settings.clone();
        // The weak model has no part in the gates and may not exist yet.
        settings.weak.model = checkpoint.path.to_string_lossy().into_owned();
        let overrides = use_checkpoint(&mut settings, &checkpoint.path);
        eprintln!("measuring the gates on {problems} held-out problems");
        let job = Job {
            settings: &settings,
            spec: RunSpec::evaluation(&settings, plan, self.actors, 0),
            source: self.source.clone(),
            run_dir: self.run_dir,
            history: None,
            starts: true,
            weights: Some((manifest_of(version, &bytes)?, bytes)),
            overrides,
            log_prefix: "gates-",
        };
        let finished = session::run(job, host).await?;
        if let Ending::Stopped(reason) = finished.ending {
            eprintln!("{reason} while the gates were measured");
            return Ok(Err(reason.exit_code()));
        }
        complain(&finished.complaints)?;
        let result = finished.hub.with(|state| state.after().cloned());
        Ok(Ok(result.context("the evaluation ended without a result")?))
    }

    /// Summary, verdicts, and where the weights are.
    fn conclude(
        &self,
        hub: &Hub,
        checkpoint: &CheckpointDir,
        result: Option<EvalResult>,
        host: &Host,
    ) -> anyhow::Result<u8> {
        let cost = cost(host)?;
        let mut summary = hub.with(|state| Summary::of(state, self.settings.seed, cost));
        summary.after.clone_from(&result);
        let path = self.run_dir.summary();
        summary.write(&path).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!(
            "{} steps, {:.1} s wall, {:.1} s CPU",
            summary.steps, summary.wall_seconds, summary.cpu_seconds
        ));
        let found = result.map_or_else(Vec::new, |result| gates(&self.settings.gates, &result));
        for gate in &found {
            say(&gate.line());
        }
        let shown = self.run_dir.shown();
        say(&format!(
            "the weights are {shown}/checkpoints/step-{:06}/model.safetensors",
            checkpoint.step
        ));
        if found.iter().all(|gate| gate.holds()) {
            return Ok(0);
        }
        eprintln!("a gate was missed: train for longer, or change the recipe");
        Ok(1)
    }
}
