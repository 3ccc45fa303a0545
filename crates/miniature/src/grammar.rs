//! Word problems and the steps that solve them. Their solutions' wording is `solution`'s; which
//! problem belongs to which split is `problems`'.

use crate::draws::Draws;
use crate::lexicon::{ITEMS, LARGEST, LINE_END, NAMES};

/// What a step does to the running value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Plus,
    Minus,
    By,
}

/// One line of a solution: `left op right is result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub left: u32,
    pub op: Op,
    pub right: u32,
    pub result: u32,
}

/// A problem with what its text states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Words separated by single spaces, ending in `? ;`.
    pub question: String,
    /// One to three.
    pub steps: Vec<Step>,
    pub answer: u32,
}

impl Step {
    /// `None` where the result is no number from 0 to 40.
    fn new(left: u32, op: Op, right: u32) -> Option<Self> {
        let result = match op {
            Op::Plus => left.checked_add(right),
            Op::Minus => left.checked_sub(right),
            Op::By => left.checked_mul(right),
        };
        let result = result.filter(|result| *result <= LARGEST)?;
        Some(Self { left, op, right, result })
    }
}

/// Who the problem is about.
struct Person {
    name: &'static str,
    he: &'static str,
    him: &'static str,
}

impl Task {
    pub(crate) fn draw(draws: &mut Draws) -> Self {
        let person = Person::draw(draws);
        let item = draws.choose(&ITEMS);
        // One, two or three steps with probabilities 0.2, 0.4, 0.4.
        let count = draws.choose(&[1, 2, 2, 3, 3]);
        let mut steps = Vec::with_capacity(count);
        let mut words = start(&person, item, &mut steps, draws);
        let mut value = steps.last().map_or_else(|| draws.between(2, 20), |step| step.result);
        if steps.is_empty() {
            words.push(format!("{} has {value} {item} .", person.name));
        }
        while steps.len() < count {
            let step = next_step(value, draws);
            words.push(sentence(&person, step, draws));
            value = step.result;
            steps.push(step);
        }
        words.push(format!("how many {item} does {} have now ? {LINE_END}", person.name));
        Self { question: words.join(" "), steps, answer: value }
    }
}

impl Person {
    fn draw(draws: &mut Draws) -> Self {
        let name = draws.choose(&NAMES);
        let male = NAMES[..4].contains(&name);
        let (he, him) = if male { ("he", "him") } else { ("she", "her") };
        Self { name, he, him }
    }
}

/// With probability 0.4 the start is itself a step: so many boxes of so many.
fn start(person: &Person, item: &str, steps: &mut Vec<Step>, draws: &mut Draws) -> Vec<String> {
    if !draws.chance(0.4) {
        return Vec::new();
    }
    let (boxes, each) = (draws.between(2, 5), draws.between(2, 8));
    steps.extend(Step::new(boxes, Op::By, each));
    vec![format!("{} has {boxes} boxes of {each} {item} each .", person.name)]
}

/// Plus, minus, by with probabilities 0.4, 0.4, 0.2, given that the result is in range.
fn next_step(value: u32, draws: &mut Draws) -> Step {
    loop {
        let op = draws.choose(&[Op::Plus, Op::Plus, Op::Minus, Op::Minus, Op::By]);
        let right = draws.between(2, if op == Op::By { 4 } else { 9 });
        if let Some(step) = Step::new(value, op, right) {
            return step;
        }
    }
}

fn sentence(person: &Person, step: Step, draws: &mut Draws) -> String {
    let (Person { he, him, .. }, number) = (person, step.right);
    match (step.op, draws.between(0, 3)) {
        (Op::Plus, 0) => format!("{he} buys {number} more ."),
        (Op::Plus, 1) => format!("{he} finds {number} more ."),
        (Op::Plus, 2) => format!("{he} wins {number} more ."),
        (Op::Plus, _) => format!("a friend gives {him} {number} more ."),
        (Op::Minus, 0) => format!("{he} eats {number} ."),
        (Op::Minus, 1) => format!("{he} loses {number} ."),
        (Op::Minus, 2) => format!("{he} sells {number} ."),
        (Op::Minus, _) => format!("{he} gives {number} to a friend ."),
        (Op::By, _) => format!("then {he} gets {number} times as many ."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(count: u64) -> impl Iterator<Item = Task> {
        (0..count).map(|index| Task::draw(&mut Draws::new(0, "grammar", index)))
    }

    /// Reads a question's sentences and computes its answer, without the drawn steps.
    fn answer_of(question: &str) -> i64 {
        let mut value = 0;
        let sentences: Vec<&str> = question.split(" .").map(str::trim).collect();
        for sentence in &sentences[..sentences.len() - 1] {
            let numbers: Vec<i64> = sentence.split(' ').filter_map(|w| w.parse().ok()).collect();
            let has = |word| sentence.split(' ').any(|w| w == word);
            value = match numbers[..] {
                [boxes, each] => boxes * each,
                [number] if has("has") => number,
                [number] if has("more") => value + number,
                [number] if has("times") => value * number,
                [number] => value - number,
                _ => panic!("cannot read '{sentence}'"),
            };
            assert!((0..=40).contains(&value), "{value} in '{question}'");
        }
        value
    }

    #[test]
    fn steps_are_right_and_in_range_by_a_second_reading() {
        for task in tasks(5_000) {
            assert_eq!(answer_of(&task.question), i64::from(task.answer), "{}", task.question);
            assert_eq!(task.steps.last().map(|step| step.result), Some(task.answer));
            for pair in task.steps.windows(2) {
                assert_eq!(pair[0].result, pair[1].left);
            }
        }
    }

    #[test]
    fn questions_are_as_long_and_as_mixed_as_specified() {
        let n = 4_000;
        let (mut words, mut longest, mut by_steps, mut boxes) = (0, 0, [0; 4], 0);
        let mut ops = [0; 3];
        for task in tasks(n) {
            let len = task.question.split(' ').count();
            words += len;
            longest = longest.max(len);
            by_steps[task.steps.len()] += 1;
            let starts_in_boxes = task.question.contains("boxes");
            boxes += u32::from(starts_in_boxes);
            for step in &task.steps[usize::from(starts_in_boxes)..] {
                ops[step.op as usize] += 1;
            }
            assert!(task.question.ends_with(" now ? ;"));
        }
        let mean = words as f64 / n as f64;
        assert!((24.5..26.0).contains(&mean), "mean prompt {mean}");
        assert!((35..=38).contains(&longest), "longest prompt {longest}");
        let share = |count: u32, of: u32| f64::from(count) / f64::from(of);
        assert!((share(by_steps[1], 4_000) - 0.2).abs() < 0.03, "{by_steps:?}");
        assert!((share(by_steps[2], 4_000) - 0.4).abs() < 0.03, "{by_steps:?}");
        assert!((share(boxes, 4_000) - 0.4).abs() < 0.03, "{boxes}");
        let all: u32 = ops.iter().sum();
        let [plus, minus, by] = ops.map(|count| share(count, all));
        assert!(plus > 0.38 && minus > 0.38 && by > 0.08 && by < 0.2, "{plus} {minus} {by}");
    }

    #[test]
    fn pronouns_follow_the_name() {
        for task in tasks(500) {
            let male = ["tom", "ben", "leo", "max"].iter().any(|n| task.question.starts_with(n));
            let has = |word| task.question.split(' ').any(|w| w == word);
            assert!(!(has("he") || has("him")) || male, "{}", task.question);
            assert!(!(has("she") || has("her")) || !male, "{}", task.question);
        }
    }
}
