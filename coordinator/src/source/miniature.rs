//! The built-in problems as a source: training problems are made by index, without end.

use miniature::{Split, Style, draw};
use settings::Settings;
use types::Problem;

use super::wants_solutions;
use crate::shard::{Dealer, Place};

/// Replacements are drawn from an ordinal on that no run's own problems reach.
const FIRST_REPLACEMENT: u64 = 1 << 63;

#[derive(Clone, Debug)]
pub struct Miniature {
    seed: u64,
    eval_seed: u64,
    style: Style,
    solutions: bool,
    dealer: Dealer,
}

impl Miniature {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let share = settings.data.jargon_share;
        Self {
            seed: settings.seed,
            eval_seed: settings.eval.seed,
            style: if share > 0.0 { Style::JargonShare(share) } else { Style::Plain },
            solutions: wants_solutions(settings),
            dealer: Dealer::new(settings.seed, None, settings.data.shard_problems),
        }
    }

    pub fn train(&mut self, position: u64) -> Problem {
        let ordinal = self.dealer.ordinal(position);
        self.problem(ordinal)
    }

    #[must_use]
    pub fn replacement(&self, position: u64) -> Problem {
        self.problem(FIRST_REPLACEMENT + position)
    }

    fn problem(&self, ordinal: u64) -> Problem {
        let problem = draw(Split::Train, self.seed, ordinal, self.style);
        Problem { solution: problem.solution.filter(|_| self.solutions), ..problem }
    }

    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        self.dealer.place(position)
    }

    #[must_use]
    pub fn held_out(&self, ordinal: u64) -> Problem {
        let problem = draw(Split::HeldOut, self.eval_seed, ordinal, Style::Plain);
        Problem { solution: None, ..problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_do_not_meet_and_solutions_travel_only_for_sft() {
        let mut settings = Settings::default();
        let mut source = Miniature::new(&settings);
        for i in 0..200 {
            assert_eq!(Split::of(&source.train(i).question), Split::Train);
            assert_eq!(Split::of(&source.held_out(i).question), Split::HeldOut);
        }
        assert_eq!(source.train(5), source.train(5));
        assert_eq!(source.replacement(5), source.replacement(5));
        assert_ne!(source.replacement(5), source.train(5));
        assert_eq!(Split::of(&source.replacement(5).question), Split::Train);
        assert_eq!(source.train(5).solution, None);
        settings.train.objective = settings::Objective::Sft;
        let solution = Miniature::new(&settings).train(5).solution.unwrap();
        assert!(solution.contains("#### "), "{solution}");
    }
}
