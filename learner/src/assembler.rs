//! Which groups make a step. Pure: groups come in any order and number, each step leaves with
//! exactly its own, once. What a group must satisfy by itself is admission's.

use std::collections::BTreeMap;

use types::{Epoch, GroupId, RolloutGroup};

/// The ids that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// B: step s consists of groups s·B … (s+1)·B−1.
    pub groups_per_step: u64,
    /// The current step and so many after it are taken in.
    pub steps_ahead: u64,
    /// `staleness.max_versions`.
    pub max_versions: u32,
    /// Group i belongs to rank i mod `world`.
    pub rank: u64,
    pub world: u64,
}

impl Window {
    /// # Errors
    /// `learner.inbox_groups` is too small for the steps that may be under way at once.
    pub fn new(settings: &settings::Settings, rank: usize, world: usize) -> anyhow::Result<Self> {
        let (rank, world) = (rank as u64, world as u64);
        let max_versions = settings.staleness.max_versions;
        let steps_ahead = u64::from(max_versions);
        let groups_per_step = settings.groups_per_step();
        let needed = groups_per_step.div_ceil(world) * (steps_ahead + 1);
        let held = u64::from(settings.learner.inbox_groups);
        anyhow::ensure!(
            held >= needed,
            "learner.inbox_groups is {held} but {needed} groups may be under way (train.\
             problems_per_step × (staleness.max_versions + 1)): raise it or lower those"
        );
        Ok(Self { groups_per_step, steps_ahead, max_versions, rank, world })
    }

    fn first(&self, step: u32) -> u64 {
        u64::from(step) * self.groups_per_step
    }
}

/// What became of an offered group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The first copy.
    Accepted,
    /// Held or consumed already, or a copy of one that was given back.
    Duplicate,
    /// Of a step that is not open yet.
    Ahead,
    /// Another rank's.
    Elsewhere { rank: u64 },
}

/// What the current step has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Formed {
    /// All groups of the step by id; the step is then consumed.
    pub batch: Option<Vec<RolloutGroup>>,
    /// Too old for the step: to be dealt again. Each has the highest epoch seen of it, since to
    /// give back an epoch that was dealt again already says nothing about the later one.
    pub stale: Vec<RolloutGroup>,
}

/// Since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub stale: u32,
    pub duplicates: u32,
    pub replaced: u32,
}

#[derive(Clone, Debug)]
pub struct Assembler {
    window: Window,
    step: u32,
    held: BTreeMap<GroupId, RolloutGroup>,
    /// Of open steps, the highest epoch taken, passed over or refused as a duplicate. Once a group
    /// is given back only a higher one is news.
    seen: BTreeMap<GroupId, Epoch>,
    counts: Counts,
}

impl Assembler {
    /// Everything before `step` counts as consumed.
    #[must_use]
    pub fn new(window: Window, step: u32) -> Self {
        let (held, seen) = (BTreeMap::new(), BTreeMap::new());
        Self { window, step, held, seen, counts: Counts::default() }
    }

    /// The step whose groups are collected.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Groups in hand.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many groups of the current step are still to come.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.own_ids().filter(|id| !self.held.contains_key(id)).count()
    }

    /// What becomes of a group, from its name alone; a duplicate is counted here. Asked before a
    /// group is checked, since a second copy need not be.
    pub fn judge(&mut self, group: GroupId, epoch: Epoch) -> Offer {
        let rank = group.0 % self.window.world;
        if rank != self.window.rank {
            return Offer::Elsewhere { rank };
        }
        let end = self.window.first(self.step) + self.open_groups();
        if group.0 >= end {
            return Offer::Ahead;
        }
        let consumed = group.0 < self.window.first(self.step);
        let held = self.held.contains_key(&group);
        let known = self.seen.get(&group).is_some_and(|seen| epoch <= *seen);
        if consumed || held || known {
            self.counts.duplicates += 1;
            if held {
                self.see(group, epoch);
            }
            return Offer::Duplicate;
        }
        Offer::Accepted
    }

    /// Takes the first copy of each open group.
    pub fn offer(&mut self, group: RolloutGroup) -> Offer {
        let offer = self.judge(group.group, group.epoch);
        if offer == Offer::Accepted {
            self.see(group.group, group.epoch);
            self.held.insert(group.group, group);
        }
        offer
    }

    /// What [`Self::offer`] says of a group that is not to be taken, but dealt again with another
    /// problem: only a higher epoch is news then.
    pub fn pass_over(&mut self, group: GroupId, epoch: Epoch) -> Offer {
        let offer = self.judge(group, epoch);
        if offer == Offer::Accepted {
            self.see(group, epoch);
            self.counts.replaced += 1;
        }
        offer
    }

    /// Once all groups of the step are there, their age is checked in one decision: stale ones go
    /// and are waited for again, otherwise the step is complete.
    pub fn form(&mut self) -> Formed {
        if self.missing() > 0 {
            return Formed::default();
        }
        let ids: Vec<GroupId> = self.own_ids().collect();
        let stale: Vec<GroupId> = ids.iter().copied().filter(|id| self.is_stale(*id)).collect();
        if stale.is_empty() {
            let batch = ids.iter().filter_map(|id| self.held.remove(id)).collect();
            self.step += 1;
            let open = GroupId(self.window.first(self.step));
            self.seen.retain(|id, _| *id >= open);
            return Formed { batch: Some(batch), stale: Vec::new() };
        }
        let dropped = stale.iter().filter_map(|id| self.held.remove(id));
        let under_last = |group: RolloutGroup| {
            let epoch = self.seen.get(&group.group).copied().unwrap_or(group.epoch);
            RolloutGroup { epoch, ..group }
        };
        let dropped: Vec<RolloutGroup> = dropped.map(under_last).collect();
        self.counts.stale += dropped.len() as u32;
        Formed { batch: None, stale: dropped }
    }

    /// Counts since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn see(&mut self, group: GroupId, epoch: Epoch) {
        let seen = self.seen.entry(group).or_insert(epoch);
        *seen = epoch.max(*seen);
    }

    fn open_groups(&self) -> u64 {
        self.window.groups_per_step * (self.window.steps_ahead + 1)
    }

    fn own_ids(&self) -> impl Iterator<Item = GroupId> {
        let Window { groups_per_step, rank, world, .. } = self.window;
        let first = self.window.first(self.step);
        (first..first + groups_per_step).filter(move |id| id % world == rank).map(GroupId)
    }

    fn is_stale(&self, id: GroupId) -> bool {
        let oldest = self.held.get(&id).and_then(oldest_step);
        oldest.is_some_and(|oldest| oldest + self.window.max_versions < self.step)
    }
}

/// The step of the oldest weights that sampled a strong token of the group.
#[must_use]
pub fn oldest_step(group: &RolloutGroup) -> Option<u32> {
    group.samples.iter().filter_map(|r| r.oldest_version().map(|v| v.step)).min()
}

#[cfg(test)]
mod tests;
