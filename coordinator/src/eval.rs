//! `coordinator eval`: one evaluation of a checkpoint, or of a model as it is.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, bail};
use settings::{DataSource, EvalSplit, Layers, Settings};
use types::{PolicyVersion, read_safetensors};

use crate::cli::{ConfigArgs, EvalArgs, UsageError};
use crate::eval_plan::{EvalPlan, EvalResult};
use crate::host::{self, Host};
use crate::launch::{complain, create};
use crate::models::{built_in, check_model};
use crate::output::say;
use crate::overrides;
use crate::pass_table::pass_table;
use crate::run_dir::{CheckpointDir, RunDir};
use crate::session::{self, Ending, Finished, GIVEN, Job};
use crate::source::Source;
use crate::spec::{RunSpec, held_out};
use crate::stored;
use crate::summary::write_json;
use crate::table::{Column, table};
use crate::weight_store::manifest_of;

/// What is evaluated.
struct Subject {
    settings: Settings,
    run_dir: RunDir,
    step: u32,
    /// `None`: in files that are not served as they are; a learner publishes them.
    bytes: Option<Vec<u8>>,
    /// `KEY=VALUE` for the children.
    overrides: Vec<String>,
    log_prefix: &'static str,
}

/// Returns the exit code.
///
/// # Errors
/// No such run or checkpoint, wrong settings, or processes that fail.
pub fn eval(args: &EvalArgs) -> anyhow::Result<u8> {
    let subject = match (&args.run, &args.config) {
        (Some(run), _) => of_run(args, run)?,
        (None, config) => of_settings(args, config.clone())?,
    };
    let Subject { settings, run_dir, step, bytes, overrides, log_prefix } = subject;
    let source = Source::open_for_evaluation(&settings)?;
    let held_out_of_training = settings.eval.enabled
        || settings.gates.problems > 0
        || settings.eval.split == EvalSplit::Test;
    if settings.data.source == DataSource::Gsm8k && args.run.is_some() && !held_out_of_training {
        eprintln!(
            "note: this run trained on all of train.jsonl, so these problems are not held out"
        );
    }
    let problems = held_out(&source, settings.eval.problems);
    let plan = match args.probe {
        true => probe_plan(&settings, problems)?,
        false => EvalPlan::full(&settings, problems),
    };
    let learners = u32::from(bytes.is_none());
    let spec = RunSpec::evaluation(&settings, plan, args.actors, learners);
    let log = run_dir.log(&format!("{log_prefix}coordinator"));
    let version = PolicyVersion { generation: GIVEN, step };
    let weights = match bytes {
        Some(bytes) => Some((manifest_of(version, &bytes)?, bytes)),
        None => None,
    };
    host::run(&settings, &log, async |host: &Host| {
        let job = Job {
            settings: &settings,
            spec,
            source,
            run_dir: &run_dir,
            history: None,
            starts: true,
            weights,
            overrides,
            log_prefix,
        };
        conclude(&session::run(job, host).await?, &run_dir, step)
    })
    .with_context(|| format!("the evaluation in {} failed", run_dir.shown()))
}

fn probe_plan(settings: &Settings, problems: u32) -> anyhow::Result<EvalPlan> {
    if settings.data.source != DataSource::Gsm8k {
        let text = "--probe compares the styles of GSM8K's solutions: set data.source=\"gsm8k\"";
        return Err(UsageError(text.to_owned()).into());
    }
    let schedule = settings.train_schedule().map_err(UsageError)?;
    Ok(EvalPlan::probe(settings, problems, schedule))
}

fn of_run(args: &EvalArgs, run: &Path) -> anyhow::Result<Subject> {
    let run_dir = RunDir::open(run)?;
    let file = Some(run_dir.config().to_string_lossy().into_owned());
    // The run's own settings hold, not today's environment.
    let layers = Layers { file, set: set(args), environment: Some(Vec::new()) };
    let mut settings = layers.load()?;
    let checkpoint = stored::checkpoint(&run_dir, args.checkpoint, &settings)?;
    let mut overrides = set(args);
    overrides.extend(use_checkpoint(&mut settings, &checkpoint.path));
    let bytes = Some(read(&checkpoint.weights())?);
    let step = checkpoint.step;
    Ok(Subject { settings, run_dir, step, bytes, overrides, log_prefix: "eval-" })
}

fn of_settings(args: &EvalArgs, config: Option<String>) -> anyhow::Result<Subject> {
    let config = ConfigArgs { config, set: set(args) };
    let mut settings = config.settings()?;
    let bytes = model_bytes(&settings.strong.model, settings.seed)?;
    if config.config.as_deref().is_some_and(|file| is_inside(file, &settings.run.dir)) {
        // A run's own config.toml names that run, which is not written to.
        settings.run.dir.clear();
    }
    let run_dir = create(&mut settings, None, &format!("{}-eval", config.name()))?;
    Ok(Subject { settings, run_dir, step: 0, bytes, overrides: Vec::new(), log_prefix: "" })
}

fn is_inside(file: &str, directory: &str) -> bool {
    let parent = Path::new(file).canonicalize().ok();
    let parent = parent.as_deref().and_then(Path::parent);
    parent.is_some() && parent == Path::new(directory).canonicalize().ok().as_deref()
}

fn set(args: &EvalArgs) -> Vec<String> {
    let split = args.split.as_ref().map(|split| format!("eval.split={split}"));
    let limit = match (args.limit, args.split.as_deref()) {
        (None, Some("test")) => Some(u32::MAX),
        (limit, _) => limit,
    };
    let limit = limit.map(|limit| format!("eval.problems={limit}"));
    args.set.iter().cloned().chain(split).chain(limit).collect()
}

/// The checkpoint as the strong model; the weak one stays what it was in the run, also where it
/// was the strong model's start.
pub(crate) fn use_checkpoint(settings: &mut Settings, checkpoint: &Path) -> Vec<String> {
    settings.weak.model = settings.weak_model().to_owned();
    settings.strong.model = checkpoint.to_string_lossy().into_owned();
    vec![
        overrides::text("weak.model", &settings.weak.model),
        overrides::text("strong.model", &settings.strong.model),
    ]
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || read_safetensors(File::open(path)?, fs::metadata(path)?.len());
    read().with_context(|| format!("cannot read the weights {}", path.display()))
}

/// The weights that a model's name stands for, where a file holds exactly the model's tensors, by its
/// names for them: a built-in one, or a run's checkpoint. `None` for what others wrote, which a learner
/// reads: published files hold tensors of other parts, or one tensor under two names.
fn model_bytes(name: &str, seed: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let role = built_in(name).context("strong.model")?;
    if let Some(role) = role.filter(|_| name.starts_with("fresh:")) {
        return Ok(Some(miniature::fresh_weights(role, seed)));
    }
    if let Some(role) = role {
        let bytes = miniature::weights(role);
        if bytes.is_empty() {
            bail!("{name}: this build has no built-in weights; make them with `coordinator sft`");
        }
        return Ok(Some(bytes.to_vec()));
    }
    if let Some(checkpoint) = CheckpointDir::at(Path::new(name)) {
        return read(&checkpoint.weights()).map(Some);
    }
    check_model("strong.model", name)?;
    Ok(None)
}

fn conclude(finished: &Finished, run_dir: &RunDir, step: u32) -> anyhow::Result<u8> {
    if let Ending::Stopped(reason) = &finished.ending {
        eprintln!("{reason}: nothing was written");
        return Ok(reason.exit_code());
    }
    let result: Option<EvalResult> = finished.hub.with(|state| state.after().cloned());
    let result = result.context("the evaluation ended without a result")?;
    let path = match result.probe {
        Some(_) => run_dir.probe(step),
        None => run_dir.evaluation(step, result.test_set),
    };
    write_json(&path, &result).with_context(|| format!("cannot write {}", path.display()))?;
    run_dir.record_evaluation(step, &result)?;
    let heading = format!("step {step}");
    match &result.probe {
        Some(probe) => say(&format!("\n{}", probe.lines())),
        None => {
            say(&format!("\n{}", table(&[Column { heading: &heading, result: Some(&result) }])))
        }
    }
    say(&pass_table(&result.pass_at));
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    say(&format!("written to {}/{file}", run_dir.shown()));
    complain(&finished.complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_stands_for_its_weights() {
        let fresh = model_bytes("fresh:miniature-weak", 3).unwrap();
        assert_eq!(fresh, Some(miniature::fresh_weights(miniature::Role::Weak, 3)));
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("checkpoints/step-000012");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("model.safetensors"), fresh.as_ref().unwrap()).unwrap();
        let name = dir.to_string_lossy();
        assert_eq!(model_bytes(&name, 0).unwrap(), None, "anybody's directory");
        fs::write(dir.join("state.json"), "{}").unwrap();
        assert_eq!(model_bytes(&name, 0).unwrap(), fresh);
        fs::write(dir.join("model.safetensors"), [0xff; 64]).unwrap();
        let text = format!("{:#}", model_bytes(&name, 0).unwrap_err());
        assert!(text.contains("model.safetensors: its header has"), "{text}");
        let gguf = root.path().join("model.gguf");
        fs::write(&gguf, b"").unwrap();
        assert_eq!(model_bytes(&gguf.to_string_lossy(), 0).unwrap(), None);
        let text = format!("{:#}", model_bytes("builtin:miniature-stron", 0).unwrap_err());
        assert!(text.contains("strong.model: there is no model builtin:miniature-stron"), "{text}");
        let text = format!("{:#}", model_bytes("absent", 0).unwrap_err());
        assert!(text.contains("absent does not exist"), "{text}");
    }

    #[test]
    fn the_weak_model_stays_what_it_was() {
        let mut settings = Settings::default();
        settings.strong.model = "/start".to_owned();
        settings.weak.model = String::new();
        let set = use_checkpoint(&mut settings, Path::new("/run/checkpoints/step-000003"));
        assert_eq!(set[0], "weak.model=\"/start\"");
        assert_eq!(settings.strong.model, "/run/checkpoints/step-000003");
    }
}
