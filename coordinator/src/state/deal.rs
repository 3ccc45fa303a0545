//! Which work goes to an actor that asks: never more rollouts than it asked for, nothing to an
//! actor without the weights that the work is for.

use std::time::Duration;

use proto::{JournalEntry, LeaseAsk, Role, WorkItem};
use types::{Epoch, GroupId, LeaseId, PolicyVersion, Purpose};

use super::{Event, Phase, RunState, StateError};
use crate::lease::Grant;
use crate::spec::TrainingWork;

impl RunState {
    /// Work that fits; `ask.completed` is not looked at (see `complete`).
    ///
    /// # Errors
    /// Anyone but a registered actor.
    pub fn lease(&mut self, ask: &LeaseAsk, now: Duration) -> Result<Vec<WorkItem>, StateError> {
        self.members.expect(ask.member, Role::Actor)?;
        self.members.asked(ask.member, now);
        let mut items = Vec::new();
        let (Some(applied), Some(published)) = (ask.applied_version, self.published) else {
            return Ok(items);
        };
        if self.stopping || self.too_few || applied.generation != published.generation {
            return Ok(items);
        }
        let mut room = ask.max_rollouts;
        while let Some(item) = self.next_item(ask, applied, room, now) {
            room -= item.samples;
            items.push(item);
        }
        Ok(items)
    }

    fn next_item(
        &mut self,
        ask: &LeaseAsk,
        applied: PolicyVersion,
        room: u32,
        now: Duration,
    ) -> Option<WorkItem> {
        let deadline = now + self.spec.lease_deadline;
        let grant = Grant { lease: LeaseId(self.next_lease + 1), member: ask.member, deadline };
        let item = match self.phase {
            Phase::Training => self.next_train(grant, applied, room, now),
            Phase::Evaluating(_) => self.next_eval(grant, applied, room),
            _ => None,
        };
        self.next_lease += u64::from(item.is_some());
        item
    }

    fn next_train(
        &mut self,
        grant: Grant,
        applied: PolicyVersion,
        room: u32,
        now: Duration,
    ) -> Option<WorkItem> {
        let training = self.spec.training.as_ref()?;
        let TrainingWork::Rollouts { schedule, samples, sampling, .. } = &training.work else {
            return None;
        };
        let (schedule, samples, sampling) = (schedule.clone(), *samples, sampling.clone());
        // Later groups belong to the same or later steps: where the first is not due, none is.
        let group = self.train.first_waiting().unwrap_or(GroupId(self.next_group));
        if samples > room || !self.is_due(group, applied) || self.has_its_share(&grant, group, now)
        {
            return None;
        }
        if group.0 == self.next_group {
            self.train.open(group);
            self.next_group += 1;
            self.note_dealt(group.0);
        }
        let epoch = self.train.grant(group, grant)?;
        self.train_counts.leased += 1;
        self.entries.push(JournalEntry::Granted { group, epoch });
        let (key_group, problem) = match self.replaced.contains(&group) {
            false => (group, self.source.train(group.0)),
            true => (group.replacement(), self.source.replacement(group.0)),
        };
        Some(WorkItem {
            lease: grant.lease,
            group,
            epoch,
            deadline: self.spec.lease_deadline,
            purpose: Purpose::Train,
            schedule,
            samples,
            key_group,
            problem,
            sampling,
        })
    }

    /// Data progress is counted in shards: the first problem of each is an event.
    pub(super) fn note_dealt(&mut self, position: u64) {
        let place = self.source.place(position);
        if self.dealing.is_none_or(|furthest| furthest < place) {
            self.dealing = Some(place);
            self.events.push(Event::Dealing(place));
        }
    }

    /// Whether the member already writes an equal part of the group's step: the first to ask would
    /// otherwise take the whole step and leave the others idle. One that has no work and has not
    /// asked for as long as a member may be absent has no part: nothing waits for it.
    fn has_its_share(&self, grant: &Grant, group: GroupId, now: Duration) -> bool {
        let Some(training) = &self.spec.training else { return false };
        let of_step = training.groups_per_step;
        let first = group.0 / of_step * of_step;
        let held = self.train.held(grant.member, GroupId(first)..GroupId(first + of_step));
        if held == 0 {
            return false;
        }
        let at_work = |member| self.train.of(member) > 0;
        let sharing = self.members.sharing(now, self.spec.absence_max, at_work);
        held as u64 >= of_step.div_ceil(sharing.max(1))
    }

    /// Whether a training group may be written by an actor with these weights: its step must
    /// exist, come before the next evaluation, and be at most `max_versions` ahead of both.
    fn is_due(&self, group: GroupId, applied: PolicyVersion) -> bool {
        let Some(training) = &self.spec.training else { return false };
        let TrainingWork::Rollouts { max_versions, .. } = training.work else { return false };
        let step = group.0 / training.groups_per_step;
        let oldest = step.saturating_sub(u64::from(max_versions));
        let fresh = |version: PolicyVersion| u64::from(version.step) >= oldest;
        step < u64::from(training.steps)
            && step < self.next_pause()
            && fresh(applied)
            && self.published.is_some_and(fresh)
    }

    /// The step before which an interleaved evaluation has the weights for itself.
    fn next_pause(&self) -> u64 {
        let every = self.spec.eval_every.as_ref().map(|(every, _)| u64::from(*every));
        every.map_or(u64::MAX, |every| (u64::from(self.committed) / every + 1) * every)
    }

    fn next_eval(&mut self, grant: Grant, applied: PolicyVersion, room: u32) -> Option<WorkItem> {
        let published = self.published?;
        let current = published == applied && published.step >= self.committed;
        let group = self.evals.first_waiting()?;
        let (arm, ordinal) = self.eval.as_ref()?.locate(group)?;
        let samples = arm.samples;
        if samples > room || !current {
            return None;
        }
        let (schedule, sampling) = (arm.schedule.to_string(), arm.sampling.clone());
        let problem = match arm.lead {
            Some(lead) => self.source.led(ordinal, lead),
            None => self.source.held_out(ordinal),
        };
        let epoch: Epoch = self.evals.grant(group, grant)?;
        self.eval_counts.leased += 1;
        Some(WorkItem {
            lease: grant.lease,
            group,
            epoch,
            deadline: self.spec.lease_deadline,
            purpose: Purpose::Eval,
            schedule,
            samples,
            key_group: GroupId(ordinal),
            problem,
            sampling,
        })
    }
}
