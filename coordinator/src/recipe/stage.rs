//! The stages of the recipe: which command each is, and what it leaves behind.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use settings::{Prompt, Settings};

use super::{Recipe, SETTINGS};
use crate::overrides::text;
use crate::run_dir::{CheckpointChoice, RunDir};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Supervised fine-tuning of the strong model, most solutions annotated.
    SftStrong,
    /// Of the weak model, without annotations.
    SftWeak,
    Probe,
    /// Training with handoffs.
    Tandem,
    /// The same without.
    Control,
    /// On the test set: the strong model before training, and both arms after it.
    TestStart,
    TestTandem,
    TestControl,
}

impl Stage {
    /// In order.
    pub(super) fn all(recipe: &Recipe) -> Vec<Self> {
        let mut stages = vec![Self::Probe, Self::Tandem, Self::Control];
        if recipe.settings.recipe.sft_steps > 0 {
            stages.splice(0..0, [Self::SftStrong, Self::SftWeak]);
        }
        if recipe.test_set {
            stages.extend([Self::TestStart, Self::TestTandem, Self::TestControl]);
        }
        stages
    }

    /// Of its directory.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SftStrong => "sft-strong",
            Self::SftWeak => "sft-weak",
            Self::Probe => "probe",
            Self::Tandem => "tandem",
            Self::Control => "control",
            Self::TestStart => "test-start",
            Self::TestTandem => "test-tandem",
            Self::TestControl => "test-control",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::SftStrong => "supervised fine-tuning of the strong model",
            Self::SftWeak => "supervised fine-tuning of the weak model, without annotations",
            Self::Probe => "the probe: which style can the weak model follow?",
            Self::Tandem => "training with handoffs",
            Self::Control => "the control: training without handoffs",
            Self::TestStart => "the strong model before training, on the test set",
            Self::TestTandem => "the tandem arm on the test set",
            Self::TestControl => "the control arm on the test set",
        }
    }

    pub(super) fn dir(self, recipe: &Recipe) -> PathBuf {
        recipe.dir.join(self.name())
    }

    /// What the stage is done for, if it is there.
    pub(super) fn result(self, recipe: &Recipe) -> anyhow::Result<Option<PathBuf>> {
        let dir = self.dir(recipe);
        let file = match self {
            Self::SftStrong | Self::SftWeak | Self::Tandem | Self::Control => "summary.json",
            Self::Probe => "probe-step-000000.json",
            Self::TestStart | Self::TestTandem | Self::TestControl => "eval-test-step-000000.json",
        };
        let path = dir.join(file);
        let there =
            path.try_exists().with_context(|| format!("cannot look for {}", path.display()));
        Ok(there?.then_some(path))
    }

    /// Whether it is training that an interrupted attempt left a checkpoint of.
    pub(super) fn goes_on(self, recipe: &Recipe) -> anyhow::Result<bool> {
        let trains = matches!(self, Self::SftStrong | Self::SftWeak | Self::Tandem | Self::Control);
        let dir = self.dir(recipe);
        Ok(trains && RunDir::has_run(&dir) && !RunDir::open(&dir)?.checkpoints()?.is_empty())
    }

    /// Removes what an interrupted attempt left.
    pub(super) fn clear(self, recipe: &Recipe) -> anyhow::Result<()> {
        let dir = self.dir(recipe);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("cannot clear {}", dir.display())),
        }
    }

    /// The command line, without the program; of an attempt that goes on if `resume`.
    ///
    /// # Errors
    /// An earlier stage's checkpoint is missing.
    pub(super) fn args(self, recipe: &Recipe, resume: bool) -> anyhow::Result<Vec<OsString>> {
        let (command, own): (&str, Vec<String>) = match self {
            Self::SftStrong => {
                let share = recipe.settings.recipe.annotated_share;
                let model = &recipe.settings.strong.model;
                ("sft", sft(&recipe.settings, model, share, &recipe.settings.strong.prompt))
            }
            Self::SftWeak => {
                let model = recipe.settings.weak_model();
                ("sft", sft(&recipe.settings, model, 0.0, &recipe.settings.weak.prompt))
            }
            Self::Probe => {
                let problems = recipe.settings.recipe.probe_problems;
                let set = [format!("eval.problems={problems}"), start(recipe)?];
                ("eval", set.into())
            }
            Self::Tandem => ("launch", vec![start(recipe)?]),
            Self::Control => ("launch", vec![start(recipe)?, "handoff.probability=0".to_owned()]),
            Self::TestStart => ("eval", vec![start(recipe)?]),
            Self::TestTandem => ("eval", vec![trained(recipe, Self::Tandem)?]),
            Self::TestControl => ("eval", vec![trained(recipe, Self::Control)?]),
        };
        let mut set = recipe.pinned.clone();
        set.extend(own);
        if recipe.settings.recipe.sft_steps > 0 && !matches!(self, Self::SftStrong | Self::SftWeak)
        {
            set.push(text("weak.model", &checkpoint(recipe, Self::SftWeak)?));
        }
        set.push(text("run.dir", &self.dir(recipe).to_string_lossy()));
        let mut args: Vec<OsString> = vec![command.into(), "--exit-with-parent".into()];
        args.extend(["--config".into(), recipe.dir.join(SETTINGS).into()]);
        for pair in set {
            args.extend(["--set".into(), pair.into()]);
        }
        args.extend(["--actors".into(), recipe.actors.to_string().into()]);
        if resume {
            args.extend(["--resume".into(), "--run-dir".into(), self.dir(recipe).into()]);
        }
        match self {
            Self::Probe => args.push("--probe".into()),
            Self::TestStart | Self::TestTandem | Self::TestControl => {
                args.extend(["--split".into(), "test".into()]);
            }
            _ => {}
        }
        Ok(args)
    }
}

/// Over the recipe's settings, so that they win over the environment too.
fn sft(settings: &Settings, model: &str, annotated_share: f64, prompt: &Prompt) -> Vec<String> {
    let recipe = &settings.recipe;
    vec![
        text("strong.model", model),
        // Not read, and it may be another than the strong model's start.
        text("weak.model", model),
        text("strong.prompt.template", &prompt.template),
        text("strong.prompt.system", &prompt.system),
        format!("strong.prompt.few_shot={}", prompt.few_shot),
        format!("strong.prompt.chat={}", prompt.chat),
        text("strong.prompt.date", &prompt.date),
        format!("strong.prompt.thinking={}", prompt.thinking),
        text("data.style", "annotated"),
        format!("data.annotated_share={annotated_share:?}"),
        text("train.objective", "sft"),
        format!("train.steps={}", recipe.sft_steps),
        format!("train.problems_per_step={}", recipe.sft_examples_per_step),
        format!("train.learning_rate={:?}", recipe.sft_learning_rate),
    ]
}

/// The strong model that both arms begin with.
fn start(recipe: &Recipe) -> anyhow::Result<String> {
    Ok(text(
        "strong.model",
        &match recipe.settings.recipe.sft_steps {
            0 => recipe.settings.strong.model.clone(),
            _ => checkpoint(recipe, Stage::SftStrong)?,
        },
    ))
}

fn trained(recipe: &Recipe, arm: Stage) -> anyhow::Result<String> {
    Ok(text("strong.model", &checkpoint(recipe, arm)?))
}

fn checkpoint(recipe: &Recipe, stage: Stage) -> anyhow::Result<String> {
    let run = RunDir::open(&stage.dir(recipe))?;
    let checkpoint = run.checkpoint(CheckpointChoice::Latest)?;
    Ok(checkpoint.path.to_string_lossy().into_owned())
}
