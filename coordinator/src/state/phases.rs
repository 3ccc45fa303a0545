//! From phase to phase: when evaluations start and end, when training starts and ends, and when a
//! run has to fail.

use proto::JournalEntry;
use types::{GroupId, MemberId, Purpose, RolloutGroup};

use super::{Event, Phase, RunState, Stage};
use crate::eval_plan::{EvalFault, EvalPlan, EvalRun};
use crate::spec::TrainingWork;

impl RunState {
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase.clone();
        self.events.push(Event::Entered(phase));
        self.count_actors();
    }

    pub(super) fn start_if_ready(&mut self) {
        let complete = self.members.missing(&self.spec.members).is_empty();
        let work = self.spec.training.as_ref().map(|training| &training.work);
        let needs_weights = !matches!(work, Some(TrainingWork::Examples));
        let waits = !complete || (needs_weights && self.published.is_none());
        if self.phase != Phase::Starting || waits {
            return;
        }
        match (self.spec.eval_before.clone(), &self.before) {
            (Some(plan), None) => self.start_eval(Stage::Before, plan),
            _ => self.go_on(),
        }
    }

    pub(super) fn train_or_finish(&mut self) {
        let steps = self.spec.training.as_ref().map_or(0, |training| training.steps);
        if self.committed < steps {
            return self.enter(Phase::Training);
        }
        match (self.spec.eval_after.clone(), &self.after) {
            (Some(plan), None) => self.start_eval(Stage::After, plan),
            _ => self.enter(Phase::Done),
        }
    }

    pub(super) fn after_commit(&mut self) {
        let steps = self.spec.training.as_ref().map_or(0, |training| training.steps);
        match self.due_eval() {
            Some(plan) => self.start_eval(Stage::During, plan),
            None if self.committed == steps => self.train_or_finish(),
            None => {}
        }
    }

    /// Where a run that was resumed stands.
    fn go_on(&mut self) {
        match self.due_eval() {
            Some(plan) => self.start_eval(Stage::During, plan),
            None => self.train_or_finish(),
        }
    }

    /// The interleaved evaluation that comes after the last committed step and is not done yet.
    fn due_eval(&self) -> Option<EvalPlan> {
        let steps = self.spec.training.as_ref().map_or(0, |training| training.steps);
        let (every, plan) = self.spec.eval_every.clone()?;
        let between = self.committed > 0 && self.committed < steps;
        let due = between && self.committed.is_multiple_of(every);
        (due && self.evaluated != Some(self.committed)).then_some(plan)
    }

    pub(super) fn start_eval(&mut self, stage: Stage, plan: EvalPlan) {
        let eval = EvalRun::new(plan, self.next_eval_group);
        self.next_eval_group += eval.group_count();
        eval.groups().for_each(|group| self.evals.open(group));
        let empty = eval.is_complete();
        self.eval = Some(eval);
        self.enter(Phase::Evaluating(stage));
        if empty {
            self.finish_eval();
        }
    }

    pub(super) fn finish_eval(&mut self) {
        let (Some(eval), Phase::Evaluating(stage)) = (self.eval.take(), &self.phase) else {
            return;
        };
        let stage = *stage;
        let mut result = eval.result();
        if let Some(before) = &self.before {
            result.keep_weak_solo(before);
        }
        self.measured = Some((self.committed, result.clone()));
        match stage {
            Stage::Before => self.before = Some(result.clone()),
            Stage::During => self.evaluated = Some(self.committed),
            Stage::After => self.after = Some(result.clone()),
        }
        self.entries.push(JournalEntry::Evaluated {
            stage: stage.into(),
            step: self.committed,
            result: serde_json::to_string(&result).expect("numbers and names have a JSON form"),
        });
        self.events.push(Event::Evaluated { stage, step: self.committed, result });
        match stage {
            Stage::Before | Stage::During => self.train_or_finish(),
            Stage::After => self.enter(Phase::Done),
        }
    }

    pub(super) fn take_eval(&mut self, group: &RolloutGroup) -> Result<(), EvalFault> {
        let (Some(eval), Some(version)) = (self.eval.as_mut(), self.published) else {
            return Ok(());
        };
        let Some((_, ordinal)) = eval.locate(group.group) else { return Ok(()) };
        if self.evals.epoch(group.group).is_none() {
            return Ok(());
        }
        eval.record(group, &self.source.held_out(ordinal), version)?;
        self.evals.close(group.group);
        self.eval_counts.completed += 1;
        Ok(())
    }

    pub(super) fn release(&mut self, member: MemberId) {
        self.train_counts.expired += self.train.release(member).len() as u64;
        self.eval_counts.expired += self.evals.release(member).len() as u64;
    }

    pub(super) fn limit_deals(&mut self, purpose: Purpose, group: GroupId, why: &str) {
        let failures = match purpose {
            Purpose::Train => self.train.failures(group),
            Purpose::Eval => self.evals.failures(group),
        };
        let (most, name) = (self.spec.group_deals_max, purpose.name());
        self.progress.note_return(format!("{name} group {group}, {why}"));
        if failures >= most {
            self.fail(format!(
                "{name} group {group} was dealt {most} times without success, the last time {why} \
                 (coordinator.group_deals_max)"
            ));
        }
    }
}
