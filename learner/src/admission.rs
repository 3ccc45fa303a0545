//! Whether a received group may be trained on. Fails closed: authors are replayed for every
//! rollout, and whatever does not fit is refused with its reason. Duplicates, order and age of
//! groups are the assembler's.

use std::sync::Arc;

use settings::Settings;
use tandem::{AuthorMismatch, AuthorRule, RandomKey, Schedule, check_rollout};
use task::Task;
use types::{
    Author, Finish, GroupId, PolicyVersion, Purpose, Rollout, RolloutGroup, RolloutParts, Sampling,
};

/// Which policy versions have existed in the surviving history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The newest version, of the present generation.
    pub published: PolicyVersion,
    /// The step that this generation went on from; later ones of older generations are dead.
    pub resumed_step: u32,
}

impl Lineage {
    fn is_live(&self, version: PolicyVersion) -> bool {
        let older = version.generation.0 >= 1 && version.generation < self.published.generation;
        version.generation == self.published.generation
            || (older && version.step <= self.resumed_step)
    }
}

/// Why a group is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("its purpose is {0}, only train groups are learnt from")]
    Purpose(&'static str),
    #[error("its schedule is `{found}`, training's is `{expected}`")]
    Schedule { found: String, expected: String },
    #[error("it draws under group number {key}, which is not that of group {group}")]
    Key { group: GroupId, key: GroupId },
    #[error("it has {found} samples, training writes {expected} of each problem")]
    Samples { found: usize, expected: u32 },
    #[error("sample {place} calls itself {found}")]
    SampleIndex { place: usize, found: u32 },
    #[error("sample {0} was sampled otherwise than training samples")]
    Sampling(usize),
    #[error("the prompt of sample {0} is not the strong model's prompt of problem {1}")]
    Prompt(usize, u64),
    #[error("problem {0} cannot be rendered: {1}")]
    Problem(u64, String),
    #[error("sample {sample}: {reason}")]
    Authors { sample: usize, reason: AuthorMismatch },
    #[error("sample {sample}: {reason}")]
    End { sample: usize, reason: &'static str },
    #[error("sample {sample} has token {token}, the vocabulary {vocab}")]
    Token { sample: usize, token: u32, vocab: usize },
    #[error("sample {sample} has a strong token of {version}, which is {why}")]
    Version { sample: usize, version: PolicyVersion, why: &'static str },
}

/// What all groups of a run must satisfy.
#[derive(Clone)]
pub struct Admission {
    task: Task,
    schedule: Schedule,
    rule: Arc<AuthorRule>,
    sampling: Sampling,
    samples: u32,
    seed: u64,
    weak_may_end: bool,
    /// `train.refill`
    refill: bool,
    vocab: usize,
}

impl Admission {
    /// # Errors
    /// The settings describe no schedule.
    pub fn new(settings: &Settings, task: Task, vocab: usize) -> anyhow::Result<Self> {
        let schedule = settings.train_schedule().map_err(anyhow::Error::msg)?;
        Ok(Self {
            rule: task.rule(Purpose::Train, schedule, settings.sampling.max_tokens),
            task,
            schedule,
            sampling: settings.train_sampling(),
            samples: settings.train.samples_per_problem,
            seed: settings.seed,
            weak_may_end: settings.handoff.weak_may_end,
            refill: settings.train.refill,
            vocab,
        })
    }

    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, group: &RolloutGroup, lineage: &Lineage) -> Result<(), Refusal> {
        if group.purpose != Purpose::Train {
            return Err(Refusal::Purpose(group.purpose.name()));
        }
        let expected = self.schedule.to_string();
        if group.schedule != expected {
            return Err(Refusal::Schedule { found: group.schedule.clone(), expected });
        }
        let key = group.key_group;
        if key != group.group && !(self.refill && key == group.group.replacement()) {
            return Err(Refusal::Key { group: group.group, key });
        }
        let found = group.samples.len();
        if found != self.samples as usize {
            return Err(Refusal::Samples { found, expected: self.samples });
        }
        let id = group.problem.id;
        let prompt = self.task.strong_prompt(&group.problem);
        let prompt = prompt.map_err(|e| Refusal::Problem(id, format!("{e:#}")))?;
        for (place, rollout) in group.samples.iter().enumerate() {
            let parts = rollout.parts();
            if parts.sample.0 as usize != place {
                return Err(Refusal::SampleIndex { place, found: parts.sample.0 });
            }
            if parts.sampling != self.sampling {
                return Err(Refusal::Sampling(place));
            }
            if parts.tokens[..parts.prompt_len] != prompt {
                return Err(Refusal::Prompt(place, id));
            }
            self.check_authors(group, place, rollout)?;
            self.check_end(place, rollout)?;
            self.check_tokens(place, parts, lineage)?;
        }
        Ok(())
    }

    /// The mask fails closed: every author must follow from the key over the tokens.
    fn check_authors(
        &self,
        group: &RolloutGroup,
        sample: usize,
        rollout: &Rollout,
    ) -> Result<(), Refusal> {
        let index = rollout.parts().sample;
        let key = RandomKey::new(self.seed, Purpose::Train, &self.schedule, group.key_group, index);
        check_rollout(&self.rule, key, rollout)
            .map_err(|reason| Refusal::Authors { sample, reason })
    }

    fn check_end(&self, sample: usize, rollout: &Rollout) -> Result<(), Refusal> {
        let (parts, range) = (rollout.parts(), rollout.response());
        let refuse = |reason| Err(Refusal::End { sample, reason });
        let response = &parts.tokens[range];
        let stops = self.task.stops();
        let canonical = stops.first();
        let token_end = response.iter().position(|token| stops.contains(token));
        let text_end = self.rule.boundaries.stop_texts().first_end(response);
        let end = token_end.into_iter().chain(text_end).min();
        if token_end.is_some_and(|at| response.get(at) != canonical) {
            return refuse("it ends with an id that is not the canonical end");
        }
        if end.is_some_and(|at| at + 1 < response.len()) {
            return refuse("tokens follow the end of the text");
        }
        let by_weak = parts.authors.last() == Some(&Author::Weak);
        if token_end.is_some() && by_weak && !self.weak_may_end {
            return refuse("the weak model ended it, which handoff.weak_may_end forbids");
        }
        match (parts.finish, end) {
            (Finish::End, None) => refuse("it is recorded as ended but has no end"),
            (Finish::Truncated, Some(_)) => refuse("it is recorded as truncated but ended"),
            (Finish::Truncated, None) if response.len() < self.sampling.max_tokens as usize => {
                refuse("it is recorded as truncated but short of sampling.max_tokens")
            }
            _ => Ok(()),
        }
    }

    fn check_tokens(
        &self,
        sample: usize,
        parts: &RolloutParts,
        lineage: &Lineage,
    ) -> Result<(), Refusal> {
        for (index, token) in parts.tokens.iter().enumerate() {
            if *token as usize >= self.vocab {
                return Err(Refusal::Token { sample, token: *token, vocab: self.vocab });
            }
            let version = parts.versions[index];
            if parts.authors[index] != Author::Strong {
                continue;
            }
            let refuse = |why| Err(Refusal::Version { sample, version, why });
            if !lineage.is_live(version) {
                return refuse("of a dead generation");
            }
            if version > lineage.published {
                return refuse("newer than what is published");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
