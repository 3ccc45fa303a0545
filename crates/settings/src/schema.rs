//! The root of the schema and what follows from several sections at once.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tandem::{GraderKind, Schedule, Unit};
use types::{Hash, Sampling};

use crate::sections::{
    Actor, Admin, Checkpoint, Compute, Coordinator, Data, DataSource, Eval, Gates, Grader, Handoff,
    Learner, Limits, Log, Model, Network, Placement, Recipe, Reward, Run, SamplingSettings,
    Security, Shutdown, Staleness, Store, Track, Train, WeakServer, Weights,
};

/// More of one kind in one machine are taken for an error.
const GPUS_MAX: usize = 1024;

/// All settings. The defaults are the miniature's.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Every coin, draw, shuffle and fresh weight of the run follows from it.
    pub seed: u64,
    pub run: Run,
    pub train: Train,
    pub handoff: Handoff,
    pub sampling: SamplingSettings,
    pub strong: Model,
    pub weak: Model,
    pub data: Data,
    pub reward: Reward,
    pub eval: Eval,
    pub gates: Gates,
    pub recipe: Recipe,
    pub staleness: Staleness,
    pub checkpoint: Checkpoint,
    pub shutdown: Shutdown,
    pub compute: Compute,
    pub actor: Actor,
    pub learner: Learner,
    pub weak_server: WeakServer,
    pub weights: Weights,
    pub store: Store,
    pub coordinator: Coordinator,
    pub placement: Placement,
    pub network: Network,
    pub security: Security,
    pub limits: Limits,
    pub admin: Admin,
    pub track: Track,
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            run: Run::default(),
            train: Train::default(),
            handoff: Handoff::default(),
            sampling: SamplingSettings::default(),
            strong: Model::named("builtin:miniature-strong"),
            weak: Model::named("builtin:miniature-weak"),
            data: Data::default(),
            reward: Reward::default(),
            eval: Eval::default(),
            gates: Gates::default(),
            recipe: Recipe::default(),
            staleness: Staleness::default(),
            checkpoint: Checkpoint::default(),
            shutdown: Shutdown::default(),
            compute: Compute::default(),
            actor: Actor::default(),
            learner: Learner::default(),
            weak_server: WeakServer::default(),
            weights: Weights::default(),
            store: Store::default(),
            coordinator: Coordinator::default(),
            placement: Placement::default(),
            network: Network::default(),
            security: Security::default(),
            limits: Limits::default(),
            admin: Admin::default(),
            track: Track::default(),
            log: Log::default(),
        }
    }
}

impl Settings {
    /// The schedule that training writes its rollouts under.
    ///
    /// # Errors
    /// `handoff.unit` names no unit, or a probability is out of range; the text says which.
    pub fn train_schedule(&self) -> Result<Schedule, String> {
        let handoff = &self.handoff;
        let p = handoff.probability;
        let schedule = match handoff.unit.as_str() {
            "markov" => Schedule::Markov { p, stay: handoff.stay },
            "alternate:chunk" => Schedule::Alternate { unit: Unit::Chunk(handoff.chunk_tokens) },
            alternate if alternate.starts_with("alternate:") => {
                return alternate.parse().map_err(|e| format!("handoff.unit: {e}"));
            }
            "chunk" => Schedule::Bernoulli { unit: Unit::Chunk(handoff.chunk_tokens), p },
            name => match Unit::from_name(name) {
                Some(unit) => Schedule::Bernoulli { unit, p },
                None => {
                    return Err(format!(
                        "handoff.unit is '{name}': write token, word, line, sentence, chunk, \
                         markov or alternate:UNIT"
                    ));
                }
            },
        };
        schedule.check().map(|()| schedule).map_err(|e| format!("handoff: {e}"))
    }

    /// What training samples under.
    #[must_use]
    pub fn train_sampling(&self) -> Sampling {
        Sampling {
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            max_tokens: self.sampling.max_tokens,
            banned: Vec::new(),
        }
    }

    /// The weak model's name: empty means the strong model as it was at the start.
    #[must_use]
    pub fn weak_model(&self) -> &str {
        if self.weak.model.is_empty() { &self.strong.model } else { &self.weak.model }
    }

    /// What rewards follow from.
    #[must_use]
    pub fn grader(&self) -> GraderKind {
        match (self.data.source, self.reward.grader) {
            (DataSource::Miniature, _) => GraderKind::Miniature,
            (DataSource::Gsm8k, Grader::Own) => GraderKind::Gsm8k,
            (DataSource::Gsm8k, Grader::LmEvalStrict) => GraderKind::LmEvalStrict,
            (DataSource::Gsm8k, Grader::LmEvalFlexible) => GraderKind::LmEvalFlexible,
            (DataSource::Gsm8k, Grader::VerlStrict) => GraderKind::VerlStrict,
            (DataSource::Gsm8k, Grader::VerlFlexible) => GraderKind::VerlFlexible,
        }
    }

    /// Examples that a few-shot prompt of either model needs.
    #[must_use]
    pub fn shots(&self) -> usize {
        self.strong.prompt.shots().max(self.weak.prompt.shots())
    }

    /// MiB of each GPU that `placement.gpus` lists; none: it says nothing.
    ///
    /// # Errors
    /// A text that is no list of sizes.
    pub fn gpu_sizes(&self) -> Result<Vec<u32>, String> {
        let text = self.placement.gpus.trim();
        let mut sizes = Vec::new();
        for part in text.split(',').map(str::trim).filter(|_| !text.is_empty()) {
            let (count, size) = part.split_once('x').unwrap_or(("1", part));
            match (count.parse(), size.parse()) {
                (Ok(count @ 1..=GPUS_MAX), Ok(size @ 1..)) => {
                    sizes.extend(std::iter::repeat_n(size, count));
                }
                _ => {
                    return Err(format!(
                        "placement.gpus has `{part}`: write each GPU's MiB, like 24564,24564 or \
                         8x81559"
                    ));
                }
            }
        }
        Ok(sizes)
    }

    /// Whether the weights of a step are evaluated before the next one.
    #[must_use]
    pub fn evaluates_after(&self, step: u32) -> bool {
        let every = self.eval.every_steps;
        self.eval.enabled && every > 0 && step.is_multiple_of(every)
    }

    /// Where weights are handed over as files, if they are: a directory of this run alone.
    #[must_use]
    pub fn weights_dir(&self) -> Option<PathBuf> {
        let (shared, run) = (self.weights.shared_dir.as_str(), self.run.dir.as_str());
        match shared {
            "" => None,
            _ if run.is_empty() => None,
            "auto" => Some(Path::new(run).join("weights")),
            _ => {
                let name = Hash::of(run.as_bytes()).to_string();
                Some(Path::new(shared).join(format!("run-{}", &name[..16])))
            }
        }
    }

    /// Where TensorBoard's event files go, if anywhere: a directory of this run alone, which
    /// TensorBoard shows under its name.
    #[must_use]
    pub fn tensorboard_dir(&self) -> Option<PathBuf> {
        let (shared, run) = (self.track.tensorboard.as_str(), Path::new(&self.run.dir));
        match shared {
            "" => None,
            _ if self.run.dir.is_empty() => None,
            "auto" => Some(run.join("tensorboard")),
            _ => {
                let name = run.file_name().unwrap_or_default().to_string_lossy();
                let hash = Hash::of(self.run.dir.as_bytes()).to_string();
                Some(Path::new(shared).join(format!("{name}-{}", &hash[..8])))
            }
        }
    }

    /// Groups of one step.
    #[must_use]
    pub fn groups_per_step(&self) -> u64 {
        u64::from(self.train.problems_per_step)
    }

    /// The canonical text: every key, in schema order.
    ///
    /// # Panics
    /// Never: the schema has only tables, numbers, strings and lists.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("the schema has only what TOML can say")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_files_lie_in_a_directory_that_has_the_name_of_its_run() {
        let dir = |run: &str, shared: &str| {
            let mut settings = Settings::default();
            settings.run.dir = run.to_owned();
            settings.track.tensorboard = shared.to_owned();
            settings.tensorboard_dir().map(|dir| dir.to_string_lossy().into_owned())
        };
        assert_eq!(dir("/runs/a-1", "auto").as_deref(), Some("/runs/a-1/tensorboard"));
        assert_eq!((dir("/runs/a-1", ""), dir("", "auto")), (None, None));
        let (one, other) = (dir("/runs/a-1", "/tb").unwrap(), dir("/other/a-1", "/tb").unwrap());
        assert!(one.starts_with("/tb/a-1-") && one.len() == other.len() && one != other, "{one}");
    }

    #[test]
    fn a_run_hands_weights_over_in_a_directory_of_its_own_or_not_at_all() {
        let dir = |run: &str, shared: &str| {
            let mut settings = Settings::default();
            settings.run.dir = run.to_owned();
            settings.weights.shared_dir = shared.to_owned();
            settings.weights_dir().map(|dir| dir.to_string_lossy().into_owned())
        };
        assert_eq!(dir("/runs/a", "auto").as_deref(), Some("/runs/a/weights"));
        assert_eq!((dir("/runs/a", ""), dir("", "auto"), dir("", "/dev/shm")), (None, None, None));
        let (a, b) = (dir("/runs/a", "/dev/shm").unwrap(), dir("/runs/b", "/dev/shm").unwrap());
        assert!(a.starts_with("/dev/shm/run-") && a.len() == b.len() && a != b, "{a} {b}");
    }
}
