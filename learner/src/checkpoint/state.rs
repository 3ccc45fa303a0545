//! What a checkpoint says of itself, and whether a run may go on from it. How it is kept on disk is
//! `sealed`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use settings::Settings;

use super::CheckpointStore;

/// Of a checkpoint whose weights are all trained, and of one with adapters.
const FORMAT: u32 = 1;
const FORMAT_LORA: u32 = 2;

/// What `state.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub format: u32,
    /// Whose it is, in hexadecimal digits: a run goes on from its own checkpoints only.
    #[serde(default)]
    pub run: String,
    /// Steps taken.
    pub step: u32,
    pub generation: u32,
    /// For instance `g1s20`.
    pub policy_version: String,
    /// Of the last step.
    pub learning_rate: f64,
    /// Steps with an empty loss take no update.
    pub optimizer_updates: u64,
    pub random_state: RandomState,
    /// Groups 0 up to this one, itself not included, made the weights.
    pub groups_consumed: u64,
    /// None: all weights were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraState>,
    /// BLAKE3 of every other file of the directory.
    pub hashes: BTreeMap<String, String>,
    /// BLAKE3 of this file, see `sealed`. Empty until it is written, and in what earlier versions
    /// wrote.
    #[serde(default)]
    pub own_hash: String,
}

/// What the adapters of a checkpoint are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraState {
    pub rank: usize,
    pub alpha: f64,
    pub targets: BTreeSet<String>,
}

impl LoraState {
    /// As settings say it.
    #[must_use]
    pub fn describe(lora: Option<&Self>) -> String {
        let Some(Self { rank, alpha, targets }) = lora else {
            return "train.lora.rank=0".to_owned();
        };
        let targets = targets.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        format!("train.lora.rank={rank}, train.lora.alpha={alpha}, train.lora.targets={targets}")
    }
}

/// All random numbers are hashes of names that begin with the seed: nothing else has to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomState {
    pub seed: u64,
}

impl State {
    /// Without hashes.
    #[must_use]
    pub fn new(run: u64, version: types::PolicyVersion, groups_per_step: u64, seed: u64) -> Self {
        Self {
            format: FORMAT,
            run: format!("{run:016x}"),
            step: version.step,
            generation: version.generation.0,
            policy_version: version.to_string(),
            learning_rate: 0.0,
            optimizer_updates: 0,
            random_state: RandomState { seed },
            groups_consumed: u64::from(version.step) * groups_per_step,
            lora: None,
            hashes: BTreeMap::new(),
            own_hash: String::new(),
        }
    }

    /// # Errors
    /// It is of another run.
    pub fn check_run(&self, run: u64) -> anyhow::Result<()> {
        ensure!(
            self.run == format!("{run:016x}"),
            "checkpoint {} is of another run: choose another run.dir, or go on with that run by \
             `coordinator launch --resume --run-dir DIR`",
            CheckpointStore::name(self.step)
        );
        Ok(())
    }

    /// Whether a run with these settings may go on from it.
    ///
    /// # Errors
    /// Names the setting that differs.
    pub fn check(&self, settings: &Settings) -> anyhow::Result<()> {
        let (seed, step) = (self.random_state.seed, self.step);
        ensure!(
            seed == settings.seed,
            "seed is {} but the checkpoint was made with {seed}: set seed={seed}",
            settings.seed
        );
        let (consumed, per_step) = (self.groups_consumed, settings.groups_per_step());
        ensure!(
            consumed == u64::from(step) * per_step,
            "train.problems_per_step is {per_step} but the {step} steps of the checkpoint took \
             {consumed} groups: set it as it was"
        );
        Ok(())
    }

    /// By what it holds.
    pub(super) fn set_format(&mut self) {
        self.format = self.own_format();
    }

    pub(super) fn check_format(&self, dir: &Path) -> anyhow::Result<()> {
        ensure!(
            self.format == self.own_format(),
            "{} has format {}, this program reads {FORMAT} and, with adapters, {FORMAT_LORA}",
            dir.display(),
            self.format
        );
        Ok(())
    }

    fn own_format(&self) -> u32 {
        if self.lora.is_some() { FORMAT_LORA } else { FORMAT }
    }
}
