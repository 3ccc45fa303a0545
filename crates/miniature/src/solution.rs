//! Solutions in words: plain lines and jargon lines. What is solved is `grammar`'s.

use crate::draws::Draws;
use crate::grammar::{Op, Step, Task};
use crate::lexicon::{ANSWER, CODEWORDS, LINE_END, PLAIN};

/// How solutions are worded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Style {
    Plain,
    /// Each line by itself is in jargon with this probability.
    JargonShare(f64),
}

/// The whole solution, ending in `#### 15`; the answer is always a plain number. The lines'
/// styles are a function of the seed and the index.
#[must_use]
pub fn solution(task: &Task, style: Style, seed: u64, index: u64) -> String {
    let mut draws = Draws::new(seed, "style", index);
    let mut lines: Vec<String> = Vec::with_capacity(task.steps.len() + 1);
    for step in &task.steps {
        let jargon = match style {
            Style::Plain => false,
            Style::JargonShare(share) => draws.chance(share),
        };
        lines.push(line(*step, jargon));
    }
    lines.push(format!("{ANSWER} {}", task.answer));
    lines.join(" ")
}

fn line(step: Step, jargon: bool) -> String {
    let (words, q) = if jargon { (CODEWORDS, "q") } else { (PLAIN, "") };
    let [so, plus, minus, by, is] = words;
    let op = match step.op {
        Op::Plus => plus,
        Op::Minus => minus,
        Op::By => by,
    };
    let Step { left, right, result, .. } = step;
    format!("{so} {q}{left} {op} {q}{right} {is} {q}{result} {LINE_END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let steps = vec![
            Step { left: 4, op: Op::By, right: 6, result: 24 },
            Step { left: 24, op: Op::Minus, right: 9, result: 15 },
        ];
        Task { question: String::new(), steps, answer: 15 }
    }

    #[test]
    fn both_styles_read_as_specified() {
        let plain = "so 4 by 6 is 24 ; so 24 minus 9 is 15 ; #### 15";
        assert_eq!(solution(&task(), Style::Plain, 0, 0), plain);
        assert_eq!(solution(&task(), Style::JargonShare(0.0), 0, 0), plain);
        let jargon = "zix q4 hax q6 ruk q24 ; zix q24 nug q9 ruk q15 ; #### 15";
        assert_eq!(solution(&task(), Style::JargonShare(1.0), 0, 0), jargon);
    }

    #[test]
    fn lines_take_their_style_one_by_one() {
        let (mut jargon, mut mixed) = (0, 0);
        for index in 0..4_000 {
            let text = solution(&task(), Style::JargonShare(0.8), 1, index);
            let lines = text.matches("zix").count();
            jargon += lines;
            mixed += usize::from(lines == 1);
        }
        // Of 8,000 lines 0.8, of 4,000 solutions 2 × 0.8 × 0.2, each within five standard errors.
        assert!(jargon.abs_diff(6_400) < 180, "{jargon}");
        assert!(mixed.abs_diff(1_280) < 150, "{mixed}");
    }
}
