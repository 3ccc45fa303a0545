//! The run at one moment, for people.

use std::time::Duration;

use proto::{Inspection, Measured, MemberView, Wait};

use super::{Phase, RunState};

impl RunState {
    /// Where the run stands, who takes part, and who waits for what.
    #[must_use]
    pub fn inspection(&self, now: Duration) -> Inspection {
        let members = self.members.all().into_iter().map(|known| {
            let (member, pulse) = (known.member, self.members.pulse(known.member));
            let silent = pulse.map(|(heard, _)| now.saturating_sub(heard));
            // What it said has grown older since.
            let older = |at: Duration| at + silent.unwrap_or_default();
            let pulse = pulse.map(|(_, pulse)| pulse);
            let waits = pulse.into_iter().flat_map(|pulse| &pulse.waits);
            MemberView {
                name: known.name(),
                admin_address: known.admin_address.clone(),
                silent,
                idle: older(pulse.map(|pulse| pulse.idle).unwrap_or_default()),
                leases: (self.train.of(member) + self.evals.of(member)) as u32,
                waits: waits
                    .map(|wait| Wait { since: older(wait.since), ..wait.clone() })
                    .collect(),
            }
        });
        let last = self.last_record.as_ref().filter(|record| record.step == self.committed);
        // What was measured of steps that were undone is nobody's.
        let measured = self.measured.as_ref().filter(|(step, _)| *step <= self.committed);
        Inspection {
            phase: self.phase.describe(),
            committed: self.committed,
            steps: self.spec.training.as_ref().map_or(0, |training| training.steps),
            // Of a run without actors only the start is published.
            version: self.published.filter(|_| self.spec.members.actors > 0),
            idle: self.idle(now),
            waits: self.waits_for(),
            members: members.collect(),
            values: last.map(|record| record.values.clone()).unwrap_or_default(),
            measured: measured.map(|(step, result)| Measured {
                step: *step,
                values: result.numbers().into_iter().collect(),
            }),
            evaluating: self.eval_progress(),
        }
    }
}

impl Phase {
    fn describe(&self) -> String {
        match self {
            Self::Starting => "starting".to_owned(),
            Self::Evaluating(stage) => format!("evaluating {} training", stage.name()),
            Self::Training => "training".to_owned(),
            Self::Done => "done".to_owned(),
            Self::Failed(why) => format!("failed: {why}"),
        }
    }
}
