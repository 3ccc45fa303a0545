//! Groups in hand: what all samples of one problem share, and what has come of each. Pure; tokens
//! are sampled elsewhere.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use model::SamplerSettings;
use proto::{Open, ReturnReason, WorkItem};
use settings::CacheOnSwap;
use tandem::{RandomKey, Schedule, Session, SessionPlan};
use task::Task;
use types::{LeaseId, Rollout, RolloutGroup, SampleIndex, TokenId};

use crate::handover::FailedGroup;

/// What holds for every rollout of the run.
#[derive(Clone)]
pub struct Rules {
    pub task: Task,
    pub seed: u64,
    /// `actor.slot_tokens`
    pub slot_tokens: usize,
    /// `actor.batch_tokens`
    pub batch_tokens: usize,
    /// `actor.cache_on_swap`
    pub cache_on_swap: CacheOnSwap,
}

/// A leased group being written.
pub(crate) struct Group {
    item: WorkItem,
    /// When the lease ends and the group is dealt again.
    deadline: Instant,
    /// What the strong model samples under.
    pub(crate) sampler: SamplerSettings,
    weak_prompt: Vec<TokenId>,
    stops: Vec<TokenId>,
    /// By sample.
    done: Vec<Option<Rollout>>,
}

impl Group {
    /// A group and its sessions, one per sample. `granted` is not later than its lease.
    ///
    /// # Errors
    /// A schedule or question that makes no sense, or a prompt that leaves no room in a slot.
    pub(crate) fn open(
        item: WorkItem,
        granted: Instant,
        rules: &Rules,
    ) -> anyhow::Result<(Self, Vec<Session>)> {
        let task = &rules.task;
        let schedule: Schedule = item.schedule.parse()?;
        ensure!(item.samples > 0, "a group of no samples");
        let prompt = task.strong_prompt(&item.problem)?;
        let (longest, room) = (prompt.len() + item.sampling.max_tokens as usize, rules.slot_tokens);
        ensure!(
            longest <= room,
            "problem {}: a prompt of {} tokens and up to {} new ones exceed actor.slot_tokens = \
             {room}: raise it to at least {longest}",
            item.problem.id,
            prompt.len(),
            item.sampling.max_tokens
        );
        let weak_prompt = match schedule.is_strong_alone() {
            true => Vec::new(),
            false => task.weak_prompt(&item.problem)?,
        };
        let rule = task.rule(item.purpose, schedule, item.sampling.max_tokens);
        let sessions = (0..item.samples).map(|sample| {
            let sample = SampleIndex(sample);
            let key = RandomKey::new(rules.seed, item.purpose, &schedule, item.key_group, sample);
            let session = Session::new(SessionPlan {
                rule: Arc::clone(&rule),
                key,
                prompt: prompt.clone(),
                sampling: item.sampling.clone(),
                stops: task.stops().to_vec(),
                weak_may_end: task.weak_may_end(item.purpose),
                sample,
            });
            session.context("the group cannot be begun")
        });
        let sessions = sessions.collect::<anyhow::Result<_>>()?;
        let sampler = SamplerSettings {
            temperature: f64::from(item.sampling.temperature),
            top_p: f64::from(item.sampling.top_p),
            banned: item.sampling.banned.clone(),
            stops: task.stops().to_vec(),
        };
        let done = vec![None; item.samples as usize];
        let stops = task.stops().to_vec();
        let deadline = granted + item.deadline;
        Ok((Self { item, deadline, sampler, weak_prompt, stops, done }, sessions))
    }

    pub(crate) fn item(&self) -> &WorkItem {
        &self.item
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.item.lease
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What the weak server needs to know of one of the group's sessions.
    pub(crate) fn weak_open(&self, session: &Session) -> Open {
        Open {
            prompt: self.weak_prompt.clone(),
            schedule: self.item.schedule.clone(),
            key: session.plan().key.bytes(),
            sampling: self.item.sampling.clone(),
            stops: self.stops.clone(),
            weak_may_end: session.plan().weak_may_end,
            max_gap: session.plan().rule.max_gap,
        }
    }

    /// Takes one finished sample; true when it was the last.
    pub(crate) fn deliver(&mut self, rollout: Rollout) -> bool {
        let sample = rollout.parts().sample.0 as usize;
        self.done[sample] = Some(rollout);
        self.done.iter().all(Option::is_some)
    }

    /// Finished samples so far.
    pub(crate) fn finished(&self) -> impl Iterator<Item = &Rollout> {
        self.done.iter().flatten()
    }

    /// The whole group; samples that are missing are left out, so call it after the last one.
    pub(crate) fn complete(self) -> RolloutGroup {
        let item = self.item;
        RolloutGroup {
            group: item.group,
            epoch: item.epoch,
            lease: item.lease,
            purpose: item.purpose,
            schedule: item.schedule,
            key_group: item.key_group,
            problem: item.problem,
            samples: self.done.into_iter().flatten().collect(),
        }
    }
}

/// `item` as it is given back.
pub(crate) fn failed(item: &WorkItem, reason: ReturnReason, detail: String) -> FailedGroup {
    FailedGroup { group: item.group, epoch: item.epoch, purpose: item.purpose, reason, detail }
}
