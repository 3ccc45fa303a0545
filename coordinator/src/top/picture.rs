//! What is known of a run at one moment, as numbers: the last answer, the last steps, and what
//! follows from them. Pure; drawing it is `view`'s.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::Inspection;

/// Steps that are kept for curves; a wide terminal has fewer columns.
const STEPS_MAX: usize = 400;
/// The rate and the means are of so many steps.
pub(super) const RECENT_STEPS: usize = 20;
/// Of a message on the screen.
const FAULT_CHARS_MAX: usize = 300;

/// One committed step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Step {
    pub(super) step: u32,
    pub(super) wall_seconds: f64,
    pub(super) values: BTreeMap<String, f64>,
}

#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) name: String,
    pub(super) inspection: Option<Inspection>,
    /// Why the last look brought nothing.
    pub(super) fault: Option<String>,
    steps: VecDeque<Step>,
}

impl Picture {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// The coordinator's answer. With a time, the step that it tells of is one of the curves'.
    pub(super) fn inspected(&mut self, inspection: Inspection, wall: Option<Duration>) {
        if let Some(wall) = wall
            && inspection.committed > 0
            && self.steps.back().is_none_or(|last| last.step != inspection.committed)
        {
            let (step, values) = (inspection.committed, inspection.values.clone());
            let step = Step { step, wall_seconds: wall.as_secs_f64(), values };
            self.went_on(vec![step]);
        }
        self.inspection = Some(inspection);
        self.fault = None;
    }

    pub(super) fn failed(&mut self, why: &str) {
        self.fault = Some(why.chars().take(FAULT_CHARS_MAX).collect());
    }

    /// All steps that there are.
    pub(super) fn begins(&mut self, steps: Vec<Step>) {
        self.steps.clear();
        self.went_on(steps);
    }

    /// Further steps. Those that they take the place of were undone.
    pub(super) fn went_on(&mut self, steps: Vec<Step>) {
        for step in steps {
            while self.steps.back().is_some_and(|last| last.step >= step.step) {
                self.steps.pop_back();
            }
            self.steps.push_back(step);
            if self.steps.len() > STEPS_MAX {
                self.steps.pop_front();
            }
        }
    }

    /// Of the last steps; none before there are two.
    pub(super) fn steps_per_minute(&self) -> Option<f64> {
        let last = self.steps.back()?;
        let first = self.steps.get(self.steps.len().saturating_sub(RECENT_STEPS + 1))?;
        let seconds = last.wall_seconds - first.wall_seconds;
        let steps = f64::from(last.step) - f64::from(first.step);
        (seconds > 0.0 && steps > 0.0).then(|| 60.0 * steps / seconds)
    }

    /// Until the last step is committed, at the present rate.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let run = self.inspection.as_ref()?;
        let steps = f64::from(run.steps.checked_sub(run.committed).filter(|left| *left > 0)?);
        Some(Duration::from_secs_f64(60.0 * steps / self.steps_per_minute()?))
    }

    /// A number of the last step.
    pub(super) fn last(&self, name: &str) -> Option<f64> {
        let of_answer = self.inspection.as_ref().and_then(|run| run.values.get(name));
        self.steps.back().and_then(|step| step.values.get(name)).or(of_answer).copied()
    }

    /// Its mean over the last steps that have it.
    pub(super) fn mean(&self, name: &str) -> Option<f64> {
        let recent = self.steps.iter().rev().take(RECENT_STEPS);
        let values: Vec<f64> = recent.filter_map(|s| s.values.get(name)).copied().collect();
        let count = values.len() as f64;
        (count > 0.0).then(|| values.iter().sum::<f64>() / count)
    }

    /// Its last values, the newest at the end.
    pub(super) fn curve(&self, name: &str, columns: usize) -> Vec<f64> {
        let all: Vec<f64> = self.steps.iter().filter_map(|s| s.values.get(name)).copied().collect();
        all[all.len().saturating_sub(columns)..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u32, wall_seconds: f64, reward: f64) -> Step {
        Step { step, wall_seconds, values: [("reward_mean".to_owned(), reward)].into() }
    }

    #[test]
    fn the_rate_and_the_rest_are_of_the_last_steps() {
        let mut picture = Picture::new("run".to_owned());
        assert_eq!((picture.steps_per_minute(), picture.remaining()), (None, None));
        // Ten slow ones, then one every half second.
        let slow = (1..=10).map(|n| step(n, 60.0 * f64::from(n), 0.0));
        let fast = (11..=31).map(|n| step(n, 600.0 + 0.5 * f64::from(n - 10), 1.0));
        picture.begins(slow.chain(fast).collect());
        assert_eq!(picture.steps_per_minute(), Some(120.0));
        let run = Inspection { committed: 31, steps: 91, ..Inspection::default() };
        picture.inspected(run, None);
        assert_eq!(picture.remaining(), Some(Duration::from_secs(30)));
        assert_eq!(picture.mean("reward_mean"), Some(1.0));
        assert_eq!(picture.curve("reward_mean", 3), [1.0; 3]);
        assert_eq!(picture.curve("reward_mean", 1000).len(), 31);
    }

    #[test]
    fn undone_steps_leave_the_curves() {
        let mut picture = Picture::new("run".to_owned());
        picture.begins((1..=5).map(|n| step(n, f64::from(n), 0.1)).collect());
        picture.went_on(vec![step(4, 6.0, 0.9)]);
        assert_eq!(picture.curve("reward_mean", 9), [0.1, 0.1, 0.1, 0.9]);
        assert_eq!(picture.last("reward_mean"), Some(0.9));
    }

    #[test]
    fn answers_alone_make_curves_too() {
        let mut picture = Picture::new("run".to_owned());
        let answer = |committed, reward| Inspection {
            committed,
            steps: 9,
            values: [("reward_mean".to_owned(), reward)].into(),
            ..Inspection::default()
        };
        picture.failed("no route");
        for (second, (committed, reward)) in
            [(0, 0.0), (2, 0.25), (2, 0.25), (4, 0.5)].iter().enumerate()
        {
            let wall = Duration::from_secs(second as u64);
            picture.inspected(answer(*committed, *reward), Some(wall));
        }
        assert_eq!(picture.curve("reward_mean", 9), [0.25, 0.5]);
        assert_eq!((picture.steps_per_minute(), picture.fault.clone()), (Some(60.0), None));
    }
}
