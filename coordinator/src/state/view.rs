//! What others may look at.

use std::time::Duration;

use types::{PolicyVersion, Purpose};

use super::{GroupCounts, Phase, RunState, Totals};
use crate::departures::Departures;
use crate::discovery::Target;
use crate::eval_plan::EvalResult;
use crate::membership::Membership;
use crate::shard::Place;
use crate::spec::RunSpec;

impl RunState {
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    #[must_use]
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.members
    }

    #[must_use]
    pub fn departures(&self) -> &Departures {
        &self.departures
    }

    /// The admin ports of all members, and of those that are missing and not yet forgotten.
    #[must_use]
    pub fn targets(&self, now: Duration) -> Vec<Target> {
        let here = self.members.all().into_iter();
        let here = here.filter_map(|m| Some((m.role, m.index?, m.admin_address.as_str())));
        let listed = here.chain(self.departures.missing(now));
        listed.filter_map(|(role, index, address)| Target::new(role, index, address)).collect()
    }

    #[must_use]
    pub fn published(&self) -> Option<PolicyVersion> {
        self.published
    }

    /// Steps taken.
    #[must_use]
    pub fn committed(&self) -> u32 {
        self.committed
    }

    /// Grows as the run gets on and never falls, whatever is undone.
    #[must_use]
    pub fn progress(&self) -> u64 {
        u64::from(self.committed_most) + self.eval_counts.completed
    }

    /// How far the problems are dealt; `None` before the first.
    #[must_use]
    pub fn dealing(&self) -> Option<Place> {
        self.dealing
    }

    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    #[must_use]
    pub fn counts(&self, purpose: Purpose) -> &GroupCounts {
        match purpose {
            Purpose::Train => &self.train_counts,
            Purpose::Eval => &self.eval_counts,
        }
    }

    /// Groups that are out.
    #[must_use]
    pub fn leases_open(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Train => self.train.out(),
            Purpose::Eval => self.evals.out(),
        }
    }

    /// Rollouts done and due of the evaluation under way.
    #[must_use]
    pub fn eval_progress(&self) -> Option<(u64, u64)> {
        self.eval.as_ref().map(|eval| (eval.done(), eval.rollouts()))
    }

    #[must_use]
    pub fn before(&self) -> Option<&EvalResult> {
        self.before.as_ref()
    }

    #[must_use]
    pub fn after(&self) -> Option<&EvalResult> {
        self.after.as_ref()
    }
}
