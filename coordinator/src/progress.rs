//! What a person sees while a command runs: a bar on a terminal, plain lines otherwise. It goes to
//! standard error; results go to standard output.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::StepRecord;

use crate::eval_plan::EvalResult;
use crate::state::{Event, Phase, Stage};

/// Steps between two plain lines.
const LINE_STEPS: u32 = 10;

/// Draws, or prints.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: u32,
    /// Committed so far.
    step: u32,
    /// Tenths of the evaluation under way that were told.
    tenths: u64,
}

impl Progress {
    #[must_use]
    pub fn new(steps: u32) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg:<40} {wide_bar} {pos}/{len} {eta:>4}");
            bar.set_style(style.expect("the template is a constant"));
            bar
        });
        Self { bar, steps, step: 0, tenths: 0 }
    }

    /// One line, above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Entered(phase) => self.entered(phase),
            Event::Committed(record) => self.committed(record),
            Event::Evaluated { stage, step, result } => {
                self.line(&evaluated_line(*stage, *step, result));
            }
            Event::Left(name) => self.line(&format!("{name} is gone")),
            Event::TooFewActors { here, least } => self.line(&format!(
                "waiting for actors: {here} of at least {least} are here (coordinator.actors_min)"
            )),
            Event::EnoughActors => self.line("there are enough actors again"),
            Event::Formed { generation, step } if generation.0 > 1 => {
                self.line(&format!("the learner is there again after step {step}"));
            }
            Event::Formed { .. } => {}
            Event::RolledBack { step, undone, .. } => self.rolled_back(*step, *undone),
            Event::Dealing(place) if place.epoch > 0 && place.shard == 0 => {
                self.line(&format!("epoch {} over the problems begins", place.epoch + 1));
            }
            Event::Dealing(_) => {}
        }
    }

    /// Rollouts of the evaluation under way.
    pub fn evaluating(&mut self, done: u64, due: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(due);
                bar.set_position(done);
            }
            None => {
                if let Some(line) = self.tenth_line(done, due) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line for every tenth of an evaluation, the last one's being its result.
    fn tenth_line(&mut self, done: u64, due: u64) -> Option<String> {
        let tenths = 10 * done / due.max(1);
        let news = tenths > self.tenths && tenths < 10;
        self.tenths = self.tenths.max(tenths);
        news.then(|| format!("  {done} of {due} rollouts"))
    }

    fn entered(&mut self, phase: &Phase) {
        // An interleaved one has one line, its result.
        self.tenths = if *phase == Phase::Evaluating(Stage::During) { 10 } else { 0 };
        let message = match phase {
            Phase::Starting | Phase::Done | Phase::Failed(_) => return,
            Phase::Evaluating(_) if self.steps == 0 => "evaluating".to_owned(),
            Phase::Evaluating(stage) => format!("evaluating {} training", stage.name()),
            Phase::Training => "training".to_owned(),
        };
        match (&self.bar, phase) {
            (Some(bar), _) => {
                if *phase == Phase::Training {
                    bar.set_length(u64::from(self.steps));
                    bar.set_position(u64::from(self.step));
                }
                bar.reset_eta();
                bar.set_message(message);
            }
            (None, Phase::Evaluating(Stage::During)) => {}
            (None, _) => eprintln!("{message}"),
        }
    }

    fn rolled_back(&mut self, step: u32, undone: u32) {
        self.step = step;
        if let Some(bar) = &self.bar {
            bar.set_position(u64::from(step));
        }
        let steps = if undone == 1 { "step is" } else { "steps are" };
        self.line(&format!("{undone} {steps} undone: the learner goes on after step {step}"));
    }

    fn committed(&mut self, record: &StepRecord) {
        self.step = record.step;
        let text = step_line(record, self.steps);
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::from(record.step));
                bar.set_message(text);
            }
            None if record.step.is_multiple_of(LINE_STEPS) || record.step == self.steps => {
                eprintln!("{text}");
            }
            None => {}
        }
    }
}

fn step_line(record: &StepRecord, steps: u32) -> String {
    let mut text = format!("step {}/{steps}", record.step);
    for (name, shown) in [("loss", "loss"), ("reward_mean", "reward"), ("jargon_rate", "jargon")] {
        if let Some(value) = record.values.get(name) {
            text.push_str(&format!("  {shown} {value:.3}"));
        }
    }
    text
}

fn evaluated_line(stage: Stage, step: u32, result: &EvalResult) -> String {
    let mut text = match stage {
        Stage::Before => "before training:".to_owned(),
        Stage::During => format!("at step {step}:"),
        Stage::After => "evaluated:".to_owned(),
    };
    let mut add = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name} {value:.3}"));
        }
    };
    add("solo", result.solo_accuracy);
    for (schedule, value) in result.tandem_accuracy.iter() {
        add(schedule, value);
    }
    add("jargon", result.jargon_rate);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_is_told_in_tenths() {
        let mut progress = Progress { bar: None, steps: 80, step: 0, tenths: 0 };
        let mut told = || -> Vec<String> {
            progress.entered(&Phase::Evaluating(Stage::Before));
            (0..=40).filter_map(|done| progress.tenth_line(done, 40)).collect()
        };
        let lines = told();
        assert_eq!((lines.len(), lines[0].as_str()), (9, "  4 of 40 rollouts"));
        assert_eq!(told(), lines, "each evaluation begins anew");
        progress.entered(&Phase::Evaluating(Stage::During));
        assert_eq!(progress.tenth_line(20, 40), None);
    }

    #[test]
    fn the_bar_goes_on_where_an_interleaved_evaluation_broke_in() {
        let mut progress =
            Progress { bar: Some(ProgressBar::hidden()), steps: 80, step: 0, tenths: 0 };
        progress.entered(&Phase::Training);
        progress.committed(&StepRecord { step: 20, ..StepRecord::default() });
        progress.entered(&Phase::Evaluating(Stage::During));
        progress.evaluating(100, 400);
        progress.entered(&Phase::Training);
        let bar = progress.bar.unwrap();
        assert_eq!((bar.position(), bar.length()), (20, Some(80)));
    }

    #[test]
    fn lines_say_what_there_is() {
        let mut record = StepRecord { step: 10, ..StepRecord::default() };
        assert_eq!(step_line(&record, 80), "step 10/80");
        record.values = [("reward_mean".to_owned(), 0.5), ("kl".to_owned(), 1.0)].into();
        assert_eq!(step_line(&record, 80), "step 10/80  reward 0.500");
        let mut result = EvalResult { jargon_rate: Some(0.81), ..EvalResult::default() };
        result.tandem_accuracy.push("line:0.5", Some(0.59));
        let line = evaluated_line(Stage::During, 20, &result);
        assert_eq!(line, "at step 20:  line:0.5 0.590  jargon 0.810");
    }
}
