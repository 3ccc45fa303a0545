//! Problems as the coordinator deals them: the two splits, numbered. Shards and leases are its own.

use types::Problem;

use crate::draws::Draws;
use crate::grammar::Task;
use crate::solution::{Style, solution};

/// A question belongs to one split for ever, by its own hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    Train,
    HeldOut,
}

impl Split {
    #[must_use]
    pub fn of(question: &str) -> Self {
        let held_out = crc32fast::hash(question.as_bytes()).is_multiple_of(10);
        if held_out { Self::HeldOut } else { Self::Train }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held-out",
        }
    }
}

/// Problem number `index` of a split under a seed; its id is the index. The style words the
/// solution and leaves the question alone.
#[must_use]
pub fn draw(split: Split, seed: u64, index: u64, style: Style) -> Problem {
    let task = task(split, seed, index);
    let solution = solution(&task, style, seed, index);
    let answer = task.answer.to_string();
    Problem {
        id: index,
        question: task.question,
        solution: Some(solution),
        answer,
        shots: Vec::new(),
        lead: None,
    }
}

/// The same problem with its steps.
#[must_use]
pub fn task(split: Split, seed: u64, index: u64) -> Task {
    let mut draws = Draws::new(seed, split.name(), index);
    loop {
        let task = Task::draw(&mut draws);
        if Split::of(&task.question) == split {
            return task;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out_and_the_splits_never_meet() {
        let tasks = (0..5_000).map(|index| Task::draw(&mut Draws::new(3, "all", index)));
        let held_out = tasks.filter(|task| Split::of(&task.question) == Split::HeldOut).count();
        assert!(held_out.abs_diff(500) < 110, "{held_out}");
        for index in 0..500 {
            for split in [Split::Train, Split::HeldOut] {
                let problem = draw(split, 0, index, Style::Plain);
                assert_eq!(Split::of(&problem.question), split);
            }
        }
    }

    #[test]
    fn problems_are_fixed_for_all_time() {
        let problem = draw(Split::Train, 0, 0, Style::JargonShare(0.8));
        assert_eq!(
            problem.question,
            "leo has 5 stamps . he sells 3 . he buys 8 more . how many stamps does leo have now ? ;"
        );
        let held_out = draw(Split::HeldOut, 1, 7, Style::Plain);
        assert_eq!(held_out.id, 7);
        assert_eq!(
            held_out.question,
            "mia has 11 coins . then she gets 2 times as many . she eats 5 . \
             how many coins does mia have now ? ;"
        );
        assert_eq!(
            held_out.solution.as_deref(),
            Some("so 11 by 2 is 22 ; so 22 minus 5 is 17 ; #### 17")
        );
    }

    #[test]
    fn style_changes_the_solution_only() {
        for index in 0..50 {
            let plain = draw(Split::Train, 0, index, Style::Plain);
            let jargon = draw(Split::Train, 0, index, Style::JargonShare(1.0));
            assert_eq!((plain.question, plain.answer), (jargon.question, jargon.answer));
            assert_ne!(plain.solution, jargon.solution);
        }
    }

    #[test]
    fn problems_hardly_repeat() {
        let questions = (0..2_000).map(|index| draw(Split::Train, 0, index, Style::Plain).question);
        let different = questions.collect::<std::collections::HashSet<_>>().len();
        assert!(different > 1_900, "{different}");
    }

    /// Reads a solution in either style, word by word, without the drawn steps.
    fn reread(solution: &str) -> u32 {
        let plain = solution.replace('q', "").replace("vop", "plus").replace("nug", "minus");
        let plain = plain.replace("hax", "by").replace("zix", "so").replace("ruk", "is");
        let (lines, answer) = plain.split_once("#### ").expect("states an answer");
        let mut value = None;
        for line in lines.split(';').map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            let ["so", left, op, right, "is", result] = words[..] else { panic!("'{line}'") };
            let [left, right, result] = [left, right, result].map(|n| n.parse::<u32>().unwrap());
            assert!(value.is_none_or(|value| value == left), "'{solution}'");
            let right_result = match op {
                "plus" => left + right,
                "minus" => left - right,
                "by" => left * right,
                other => panic!("'{other}'"),
            };
            assert_eq!(right_result, result, "'{solution}'");
            value = Some(result);
        }
        assert_eq!(value.map(|v| v.to_string()).as_deref(), Some(answer), "'{solution}'");
        value.expect("has a line")
    }

    #[test]
    fn solutions_in_both_styles_are_right_and_as_long_as_specified() {
        let (mut generated, mut whole, mut longest) = (0, 0, 0);
        for index in 0..4_000 {
            let problem = draw(Split::Train, 5, index, Style::JargonShare(0.5));
            let solution = problem.solution.unwrap();
            assert_eq!(reread(&solution).to_string(), problem.answer);
            // The end token makes one more.
            let words = solution.split(' ').count() + 1;
            generated += words;
            whole += words + problem.question.split(' ').count();
            longest = longest.max(words);
        }
        let mean = |sum: usize| sum as f64 / 4_000.0;
        assert!((18.0..19.0).contains(&mean(generated)), "generated {}", mean(generated));
        assert!((43.0..45.0).contains(&mean(whole)), "whole {}", mean(whole));
        assert_eq!(longest, 24);
    }
}
