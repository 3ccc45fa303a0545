//! What a reported step must account for before it counts.

use std::collections::BTreeSet;

use proto::{Role, StepRecord};
use types::GroupId;

use super::{Event, Phase, RunState, StateError, Totals};
use crate::spec::{Training, TrainingWork};

impl RunState {
    /// Whether a reported step is new: false for the repetition of the last report, whose answer
    /// may have been lost. Groups that were consumed before are counted.
    ///
    /// # Errors
    /// A step out of turn, or one that was not made of exactly its groups.
    pub fn is_new(&mut self, record: &StepRecord) -> Result<bool, StateError> {
        self.members.expect(record.member, Role::Learner)?;
        let training = self.spec.training.clone().ok_or(StateError::NotTraining)?;
        if self.last_record.as_ref() == Some(record) {
            return Ok(false);
        }
        let published = self.published.map(|version| version.generation);
        if published != Some(record.version.generation) {
            let (step, found) = (record.step, record.version.generation);
            let expected = published.unwrap_or_default();
            return Err(StateError::Generation { step, found, expected });
        }
        self.totals.trained_twice += self.consumed_before(record, &training);
        let expected = self.committed + 1;
        if record.step != expected || self.phase != Phase::Training {
            return Err(StateError::Step { found: record.step, expected });
        }
        match training.work {
            TrainingWork::Rollouts { .. } => account(record, &training).map(|()| true),
            TrainingWork::Examples => Ok(true),
        }
    }

    /// A step was taken. True if it is new; see `is_new`.
    ///
    /// # Errors
    /// Those of `is_new`; nothing is committed then.
    pub fn commit(&mut self, record: &StepRecord) -> Result<bool, StateError> {
        if !self.is_new(record)? {
            return Ok(false);
        }
        let training = self.spec.training.as_ref().ok_or(StateError::NotTraining)?;
        let groups = training.groups_of(record.step);
        self.next_group = self.next_group.max(groups.end);
        groups.for_each(|group| {
            self.train.close(GroupId(group));
            self.replaced.remove(&GroupId(group));
        });
        self.committed = record.step;
        self.committed_most = self.committed_most.max(record.step);
        self.add(record);
        self.ledger.push(self.totals);
        self.last_record = Some(record.clone());
        self.events.push(Event::Committed(record.clone()));
        self.after_commit();
        Ok(true)
    }

    /// Groups of the report that belong to a committed step, or stand in it twice.
    fn consumed_before(&self, record: &StepRecord, training: &Training) -> u64 {
        let consumed = training.groups_of(self.committed).end;
        let mut seen = BTreeSet::new();
        let again = |group: &&GroupId| group.0 < consumed || !seen.insert(**group);
        record.groups.iter().filter(again).count() as u64
    }

    /// What a broken learner reported twice stays known after its steps are undone.
    pub(super) fn totals_after(&self, step: u32) -> Totals {
        let last = step.checked_sub(1).and_then(|last| self.ledger.get(last as usize));
        let trained_twice = self.totals.trained_twice;
        Totals { trained_twice, ..last.copied().unwrap_or_default() }
    }

    fn add(&mut self, record: &StepRecord) {
        let reported = u64::from(record.groups_trained + record.groups_zero_variance);
        let by_id = record.groups.len() as u64;
        let totals = &mut self.totals;
        totals.consumed += if record.groups.is_empty() { reported } else { by_id };
        totals.trained += u64::from(record.groups_trained);
        totals.zero_variance += u64::from(record.groups_zero_variance);
        totals.stale += u64::from(record.groups_stale);
        totals.duplicates_refused += u64::from(record.duplicates_refused);
        totals.strong_tokens += record.strong_tokens;
        totals.weak_tokens += record.weak_tokens;
    }
}

/// A step is exactly its own groups, each trained or without variance.
fn account(record: &StepRecord, training: &Training) -> Result<(), StateError> {
    let step = record.step;
    let due = training.groups_of(step);
    let mut found: Vec<u64> = record.groups.iter().map(|group| group.0).collect();
    found.sort_unstable();
    if !found.iter().copied().eq(due.clone()) {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = format!("{} to {}", due.start, due.end - 1);
        return Err(StateError::Groups { step, found: found.join(", "), expected });
    }
    let (reported, expected) =
        (u64::from(record.groups_trained + record.groups_zero_variance), training.groups_per_step);
    if reported != expected {
        return Err(StateError::Count { step, found: reported, expected });
    }
    Ok(())
}
