//! The learner's ranks by generations: when they form, from which step they go on, and what then
//! counts as never done. How ranks find each other is the directive's.

use proto::{Formation, JournalEntry, Rank, Registration, Role};
use types::{Generation, GroupId, MemberId, PolicyVersion};

use super::{Event, Phase, RunState, StateError};
use crate::journal::UNRECORDED_MAX;

/// Who the ranks of the present generation are.
#[derive(Clone, Debug)]
pub(super) struct Ranks {
    pub(super) formation: Formation,
    members: Vec<MemberId>,
}

impl RunState {
    /// Forms the next generation where every rank is here and the present one is not made of
    /// exactly them.
    pub(super) fn form(&mut self) {
        let ranks = self.members.ranks();
        let members: Vec<MemberId> = ranks.iter().map(|(member, _)| *member).collect();
        let complete = members.len() == self.spec.members.learners as usize;
        let present = self.ranks.as_ref().map(|ranks| &ranks.members);
        if !complete || members.is_empty() || present == Some(&members) {
            return;
        }
        if self.generation.0 - self.recorded.0 >= UNRECORDED_MAX {
            return self.fail(format!(
                "the learner's ranks have formed {UNRECORDED_MAX} times and published nothing: see \
                 why they end"
            ));
        }
        let rank = |(_, known): &(MemberId, Registration)| Rank {
            address: known.address.clone(),
            ring_address: known.ring_address.clone(),
        };
        self.generation = Generation(self.generation.0 + 1);
        let formation = Formation {
            generation: self.generation,
            committed: self.committed,
            run: self.spec.run,
            ranks: ranks.iter().map(rank).collect(),
        };
        // What a rank has received it may have lost, and what it has kept it lets go.
        self.train.reopen_delivered();
        self.ranks = Some(Ranks { formation, members });
        self.events.push(Event::Formed { generation: self.generation, step: self.committed });
    }

    /// A rank cannot go on with the others of this generation. Late words change nothing.
    ///
    /// # Errors
    /// Anyone but a registered learner.
    pub fn reform(&mut self, member: MemberId, generation: Generation) -> Result<(), StateError> {
        self.members.expect(member, Role::Learner)?;
        if generation == self.generation {
            self.ranks = None;
            self.form();
        }
        Ok(())
    }

    /// The ranks of a member that is gone are no group any more.
    pub(super) fn unform(&mut self, member: MemberId) {
        if self.ranks.as_ref().is_some_and(|ranks| ranks.members.contains(&member)) {
            self.ranks = None;
        }
    }

    /// Whether a version may come next: the one after the published one, or the first of a later
    /// generation. None is ever left out.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn may_publish(&self, version: PolicyVersion) -> Result<(), StateError> {
        let Some(newest) = self.published else { return self.may_begin(version) };
        let next = PolicyVersion { step: newest.step + 1, ..newest };
        match version.generation == newest.generation {
            true if version == next || version == newest => Ok(()),
            true => Err(StateError::Version { found: version, expected: next }),
            false => self.may_begin(version),
        }
    }

    /// A version without learners is the coordinator's own.
    fn may_begin(&self, version: PolicyVersion) -> Result<(), StateError> {
        let generation = self.generation;
        let expected = PolicyVersion { generation, step: self.committed };
        let known = self.spec.members.learners == 0 || version.generation == generation;
        let newer = self.published.is_none_or(|newest| newest.generation < version.generation);
        let possible = self.spec.training.is_none() || version.step <= self.committed;
        (known && newer && possible)
            .then_some(())
            .ok_or(StateError::Version { found: version, expected })
    }

    /// A newer version is stored and may be fetched. The first of a generation says from where it
    /// goes on: committed steps after that are undone, and their number is returned.
    ///
    /// # Errors
    /// Those of `may_publish`; nothing changes then.
    pub fn publish(&mut self, version: PolicyVersion) -> Result<u32, StateError> {
        self.may_publish(version)?;
        let begins = self.published.is_none_or(|newest| newest.generation < version.generation);
        self.published = Some(version);
        let undone = match self.spec.training.is_some() && begins {
            true => self.committed.saturating_sub(version.step),
            false => 0,
        };
        if begins && self.spec.training.is_some() {
            let PolicyVersion { generation, step } = version;
            self.recorded = generation;
            self.entries.push(JournalEntry::Formed { generation, step });
        }
        if undone > 0 {
            self.roll_back(version.step);
            let generation = version.generation;
            self.events.push(Event::RolledBack { generation, step: version.step, undone });
        }
        self.start_if_ready();
        Ok(undone)
    }

    /// As if no step after this one had been taken.
    fn roll_back(&mut self, step: u32) {
        let Some(training) = &self.spec.training else { return };
        let first = GroupId(training.groups_of(step).end);
        self.committed = step;
        self.ledger.truncate(step as usize);
        self.totals = self.totals_after(step);
        self.last_record = None;
        self.train.rewind(first..GroupId(self.next_group));
        self.replaced.retain(|group| *group < first);
        self.evaluated = self.evaluated.filter(|of| *of <= step);
        // An evaluation of weights that do not exist any more.
        let undone =
            matches!(self.phase, Phase::Evaluating(stage) if stage != super::Stage::Before);
        if undone && let Some(eval) = self.eval.take() {
            eval.groups().for_each(|group| {
                self.evals.close(group);
            });
            self.enter(Phase::Training);
        }
    }
}
