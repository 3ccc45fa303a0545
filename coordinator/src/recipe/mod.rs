//! `coordinator recipe gsm8k-jargon`: supervised starting points, a probe, tandem training, its
//! control, and a report. Each stage is a command of this program; a stage that left its result is
//! not done again.

mod report;
mod stage;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::{Shutdown, TaskGroup, describe_exit, run_attached};
use settings::{DataSource, EvalSplit, Layers, Settings};

use crate::cli::{RecipeArgs, UsageError};
use crate::host::JOIN_GRACE;
use crate::models::{check_model, make_absolute};
use crate::output::say;
use crate::overrides;
use crate::run_dir::{RunDir, RunDirError};
use crate::source::Gsm8k;
use stage::Stage;

/// The resolved settings that all stages share.
const SETTINGS: &str = "recipe.toml";
/// Held while a recipe runs.
const LOCK: &str = "recipe.lock";

/// A stage's own grace, and this much for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

const POLL: Duration = Duration::from_millis(100);

/// An experiment's directory and what its stages are to be done with.
pub(crate) struct Recipe {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) actors: u32,
    pub(crate) test_set: bool,
    /// `KEY=VALUE` of what the environment names, as it was resolved: the stages read it too.
    pub(crate) pinned: Vec<String>,
}

/// Returns the exit code.
///
/// # Errors
/// Wrong settings, a directory of another recipe, or a stage that fails.
pub fn recipe(args: &RecipeArgs) -> anyhow::Result<u8> {
    let settings = settings(args)?;
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let _lock = lock(&args.out)?;
    claim(&args.out, &settings)?;
    let dir = std::path::absolute(&args.out)
        .with_context(|| format!("cannot tell where {} lies", args.out.display()))?;
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let pinned = overrides::pinned(&settings, variables);
    let recipe = Recipe { dir, settings, actors: args.actors, test_set: args.test_set, pinned };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    runtime.block_on(async {
        let signals = Shutdown::new();
        let tasks = TaskGroup::new(Shutdown::new());
        runtime::listen_for_signals(&tasks, signals.clone())
            .context("cannot listen for signals")?;
        let done = run(&recipe, &signals).await;
        tasks.shutdown().trigger("the recipe is done");
        let joined = tasks.join(JOIN_GRACE).await;
        done.and_then(|code| joined.map(|()| code))
    })
}

async fn run(recipe: &Recipe, signals: &Shutdown) -> anyhow::Result<u8> {
    let stages = Stage::all(recipe);
    for (number, stage) in stages.iter().enumerate() {
        let heading = format!("[{}/{}] {}", number + 1, stages.len(), stage.title());
        if stage.result(recipe)?.is_some() {
            eprintln!("{heading}: done before");
            continue;
        }
        eprintln!("{heading}");
        if let Some(code) = run_stage(recipe, *stage, signals).await? {
            return Ok(code);
        }
    }
    let report = report::write(recipe)?;
    say(&format!("\n{report}"));
    say(&format!("written to {}/report.md and report.json", recipe.dir.display()));
    Ok(0)
}

/// `None` once its result is there; an exit code where a signal stopped it.
async fn run_stage(
    recipe: &Recipe,
    stage: Stage,
    signals: &Shutdown,
) -> anyhow::Result<Option<u8>> {
    let grace = Duration::from_secs_f64(recipe.settings.shutdown.grace_seconds) + LAST_WORDS;
    until_free(&stage.dir(recipe), grace).await?;
    let resume = stage.goes_on(recipe)?;
    if !resume {
        stage.clear(recipe)?;
    }
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let args = stage.args(recipe, resume)?;
    let ended: ExitStatus = run_attached(&program, &args, signals, grace).await?;
    if let Some(reason) = signals.reason() {
        eprintln!("{reason}: the same command goes on with the stage `{}`", stage.name());
        return Ok(Some(reason.exit_code()));
    }
    if !ended.success() {
        bail!(
            "the stage `{}` {}; see {}",
            stage.name(),
            describe_exit(ended),
            recipe.dir.display()
        );
    }
    stage
        .result(recipe)?
        .with_context(|| format!("the stage `{}` left no result", stage.name()))?;
    Ok(None)
}

/// What an earlier recipe started may still be ending, if that one was killed.
async fn until_free(dir: &Path, grace: Duration) -> anyhow::Result<()> {
    let ends = tokio::time::Instant::now() + grace;
    while RunDir::is_live(dir)? {
        if tokio::time::Instant::now() >= ends {
            return Err(RunDirError::Live(dir.to_owned()).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn settings(args: &RecipeArgs) -> anyhow::Result<Settings> {
    let mut set = args.set.clone();
    set.push(overrides::text("strong.model", &args.strong));
    set.push(overrides::text("weak.model", &args.weak));
    let layers = Layers { file: Some(args.config.clone()), set, environment: None };
    let mut settings = layers.load()?;
    if settings.data.source != DataSource::Gsm8k {
        let text = format!("{}: this recipe needs data.source=\"gsm8k\"", args.config);
        return Err(UsageError(text).into());
    }
    if !settings.eval.enabled {
        let text = "this recipe compares evaluations: set eval.enabled=true";
        return Err(UsageError(text.to_owned()).into());
    }
    for path in [&mut settings.strong.model, &mut settings.weak.model, &mut settings.data.path] {
        make_absolute(path);
    }
    // Before anything is written: the stages would find out one by one, and what is not there yet would
    // be claimed under another name than it has afterwards.
    if !args.out.join(SETTINGS).exists() {
        check_model("strong.model", &settings.strong.model)?;
        check_model("weak.model", settings.weak_model())?;
    }
    let mut read = settings.clone();
    if args.test_set {
        read.eval.split = EvalSplit::Test;
    }
    Gsm8k::open_for_evaluation(&read)?;
    Ok(settings)
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join(LOCK);
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
        bail!(
            "a recipe is under way in {}: wait for its end, or choose another --out",
            dir.display()
        );
    }
    Ok(file)
}

/// Takes a new directory, or goes on with one of the same settings.
fn claim(dir: &Path, settings: &Settings) -> anyhow::Result<()> {
    let path = dir.join(SETTINGS);
    let wanted = settings.to_toml();
    if !path.exists() {
        if fs::read_dir(dir)?.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK)) {
            bail!(
                "{} is not empty: choose another --out, a new or an empty directory",
                dir.display()
            );
        }
        return fs::write(&path, wanted)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let found =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let changed = differing(&found, &wanted);
    if changed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} was begun with other settings ({}): give those again, or choose another --out",
        dir.display(),
        changed.join(", ")
    )
}

/// The keys whose values differ, as `section.key`.
fn differing(found: &str, wanted: &str) -> Vec<String> {
    let keys = |text: &str| {
        let mut section = String::new();
        let mut all = std::collections::BTreeMap::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = format!("{}.", name.trim_end_matches(']'));
            } else if let Some((key, value)) = line.split_once(" = ") {
                all.insert(format!("{section}{key}"), value.to_owned());
            }
        }
        all
    };
    let (found, wanted) = (keys(found), keys(wanted));
    let all: std::collections::BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    all.into_iter().filter(|key| found.get(*key) != wanted.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_that_are_not_there_are_named_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let refusal = |weak: &str, test_set: bool| {
            let args = RecipeArgs {
                strong: "builtin:miniature-strong".to_owned(),
                weak: weak.to_owned(),
                config: "gsm8k-jargon".to_owned(),
                set: vec![overrides::text("data.path", &dir.path().display().to_string())],
                out: out.clone(),
                actors: 1,
                test_set,
            };
            let text = format!("{:#}", recipe(&args).unwrap_err());
            assert!(!out.exists());
            text
        };
        let missing = |file: &str, test_set: bool| {
            let text = refusal("builtin:miniature-weak", test_set);
            assert!(text.contains(&dir.path().join(file).display().to_string()), "{text}");
        };
        let text = refusal("models/not-fetched", false);
        assert!(text.contains("weak.model: models/not-fetched does not exist"), "{text}");
        missing("train.jsonl", false);
        let lines = |i: usize| json!({"question": format!("{i}?"), "answer": format!("#### {i}")});
        let lines: Vec<String> = (0..600).map(|i| lines(i).to_string()).collect();
        fs::write(dir.path().join("train.jsonl"), lines.join("\n")).unwrap();
        missing("test.jsonl", true);
    }

    #[test]
    fn what_the_environment_names_is_pinned_for_every_stage() {
        let mut settings = Settings::default();
        settings.recipe.sft_steps = 0;
        let pinned = vec!["handoff.probability=0.5".to_owned(), "train.steps=9".to_owned()];
        let recipe = Recipe { dir: "/x".into(), settings, actors: 1, test_set: false, pinned };
        let last = |stage: Stage, key: &str| {
            let args = stage.args(&recipe, false).unwrap();
            let mut texts = args.iter().filter_map(|arg| arg.to_str()?.strip_prefix(key));
            texts.next_back().unwrap().to_owned()
        };
        assert_eq!(last(Stage::Tandem, "handoff.probability="), "0.5");
        assert_eq!(last(Stage::Control, "handoff.probability="), "0", "its own comes after");
        assert_eq!(last(Stage::Control, "train.steps="), "9");
        assert_eq!(last(Stage::SftStrong, "train.steps="), "0");
    }

    #[test]
    fn a_directory_is_gone_on_with_under_the_same_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        claim(dir.path(), &settings).unwrap();
        claim(dir.path(), &settings).unwrap();
        (settings.seed, settings.train.kl) = (9, 0.5);
        let text = claim(dir.path(), &settings).unwrap_err().to_string();
        assert!(text.contains("(seed, train.kl)"), "{text}");
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.tex"), "").unwrap();
        let text = claim(other.path(), &settings).unwrap_err().to_string();
        assert!(text.contains("is not empty"), "{text}");
        let held = lock(dir.path()).unwrap();
        let text = lock(dir.path()).unwrap_err().to_string();
        assert!(text.contains("under way"), "{text}");
        drop(held);
        lock(dir.path()).unwrap();
    }
}
