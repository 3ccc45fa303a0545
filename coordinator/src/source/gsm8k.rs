//! GSM8K from its public JSON-lines files. Grading its answers is the `tandem` crate's.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use settings::Settings;
use types::Problem;

use super::wants_solutions;
use crate::shard::{Dealer, Place, permutation};

/// So many problems of `train.jsonl` are held out for evaluation; `test.jsonl` stays untouched.
pub const HELD_OUT: usize = 512;

const ANSWER_MARK: &str = "#### ";

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "cannot read {path}: {source}; data.path must name the directory that holds train.jsonl"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}, line {line}: {fault}; each line is {{\"question\": …, \"answer\": …}} with the gold answer after `#### `"
    )]
    Line { path: PathBuf, line: usize, fault: String },
    #[error(
        "{path} has {found} problems but evaluation holds {HELD_OUT} out: set eval.enabled=false"
    )]
    TooFew { path: PathBuf, found: usize },
}

/// The training file, split and ordered.
#[derive(Clone, Debug)]
pub struct Gsm8k {
    problems: Vec<Problem>,
    /// Indices into `problems`.
    dealt: Vec<usize>,
    held_out: Vec<usize>,
    solutions: bool,
    dealer: Dealer,
    replacements: Dealer,
}

#[derive(Deserialize)]
struct Line {
    question: String,
    answer: String,
}

impl Gsm8k {
    /// # Errors
    /// A missing, empty or malformed file.
    pub fn open(settings: &Settings) -> Result<Self, SourceError> {
        let path = Path::new(&settings.data.path).join("train.jsonl");
        let problems = read_problems(&path)?;
        Self::new(problems, settings).map_err(|found| SourceError::TooFew { path, found })
    }

    /// The held-out problems end a permutation drawn from `eval.seed`. Training leaves them out,
    /// unless nothing is measured on them (`eval.enabled` off and no gates): then an epoch deals
    /// every problem.
    fn new(problems: Vec<Problem>, settings: &Settings) -> Result<Self, usize> {
        let count = problems.len();
        let order = permutation(settings.eval.seed, "held-out", 0, count as u64);
        let order: Vec<usize> = order.into_iter().map(|ordinal| ordinal as usize).collect();
        let held_out = order[count.saturating_sub(HELD_OUT)..].to_vec();
        let measured = settings.eval.enabled || settings.gates.problems > 0;
        let dealt = match measured {
            true => order[..count - held_out.len()].to_vec(),
            false => (0..count).collect(),
        };
        if dealt.is_empty() {
            return Err(count);
        }
        let shards = settings.data.shard_problems;
        let dealer = Dealer::new(settings.seed, Some(dealt.len() as u64), shards);
        let replacements = dealer.clone().ordered_by("replacements");
        let solutions = wants_solutions(settings);
        Ok(Self { problems, dealt, held_out, solutions, dealer, replacements })
    }

    pub fn train(&mut self, position: u64) -> Problem {
        let ordinal = self.dealer.ordinal(position);
        self.problem(ordinal)
    }

    pub fn replacement(&mut self, position: u64) -> Problem {
        let ordinal = self.replacements.ordinal(position);
        self.problem(ordinal)
    }

    fn problem(&self, ordinal: u64) -> Problem {
        let problem = &self.problems[self.dealt[ordinal as usize]];
        let solution = problem.solution.clone().filter(|_| self.solutions);
        Problem { solution, ..problem.clone() }
    }

    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        self.dealer.place(position)
    }

    /// # Panics
    /// Beyond the last held-out problem.
    #[must_use]
    pub fn held_out(&self, ordinal: u64) -> Problem {
        let problem = &self.problems[self.held_out[ordinal as usize]];
        Problem { solution: None, ..problem.clone() }
    }

    #[must_use]
    pub fn held_out_problems(&self) -> u32 {
        self.held_out.len() as u32
    }

    /// How many problems one epoch deals.
    #[must_use]
    pub fn epoch_problems(&self) -> u64 {
        self.dealt.len() as u64
    }
}

/// All problems of one file; their ids are line numbers from 1.
///
/// # Errors
/// A missing or empty file, or the first malformed line by number.
pub fn read_problems(path: &Path) -> Result<Vec<Problem>, SourceError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
    let fault =
        |line: usize, fault: String| SourceError::Line { path: path.to_owned(), line, fault };
    if text.is_empty() {
        return Err(fault(1, "the file is empty".to_owned()));
    }
    let problems = (1..)
        .zip(text.lines())
        .map(|(number, line)| parse(number as u64, line).map_err(|text| fault(number, text)));
    problems.collect()
}

fn parse(id: u64, line: &str) -> Result<Problem, String> {
    let Line { question, answer: solution } =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    if question.trim().is_empty() {
        return Err("the question is empty".to_owned());
    }
    let (_, gold) =
        solution.rsplit_once(ANSWER_MARK).ok_or("the answer has no `#### `".to_owned())?;
    let answer = gold.trim().to_owned();
    if answer.is_empty() {
        return Err("nothing follows `#### `".to_owned());
    }
    Ok(Problem { id, question, solution: Some(solution), answer })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;

    use super::*;

    fn problems(count: usize) -> Vec<Problem> {
        let mut text = String::new();
        for i in 1..=count {
            let answer = format!("half of {} is <<{}/2={i}>>{i}\\n#### {i}", 2 * i, 2 * i);
            writeln!(text, "{{\"question\": \"what is {i}?\", \"answer\": \"{answer}\"}}").unwrap();
        }
        (1..).zip(text.lines()).map(|(id, line)| parse(id, line).unwrap()).collect()
    }

    fn epoch(source: &mut Gsm8k, epoch: u64) -> Vec<u64> {
        let n = source.epoch_problems();
        (0..n).map(|i| source.train(epoch * n + i).id).collect()
    }

    #[test]
    fn an_epoch_deals_all_7473_problems_each_once() {
        let mut settings = Settings::default();
        settings.eval.enabled = false;
        let mut source = Gsm8k::new(problems(7_473), &settings).unwrap();
        for number in 0..2 {
            let dealt = epoch(&mut source, number);
            let distinct: BTreeSet<u64> = dealt.iter().copied().collect();
            assert_eq!((dealt.len(), distinct.len()), (7_473, 7_473));
            assert_eq!((distinct.first(), distinct.last()), (Some(&1), Some(&7_473)));
        }
        assert_ne!(epoch(&mut source, 0), epoch(&mut source, 1));
    }

    #[test]
    fn held_out_problems_are_never_dealt_and_do_not_follow_the_run_seed() {
        let mut settings = Settings::default();
        let mut source = Gsm8k::new(problems(1_000), &settings).unwrap();
        let dealt: BTreeSet<u64> = epoch(&mut source, 0).into_iter().collect();
        let held_out =
            |source: &Gsm8k| -> BTreeSet<u64> { (0..512).map(|i| source.held_out(i).id).collect() };
        let kept = held_out(&source);
        assert_eq!((dealt.len(), kept.len(), source.held_out_problems()), (488, 512, 512));
        assert!(dealt.is_disjoint(&kept));
        settings.seed = 9;
        assert_eq!(held_out(&Gsm8k::new(problems(1_000), &settings).unwrap()), kept);
        assert_eq!(Gsm8k::new(problems(512), &settings).unwrap_err(), 512);
    }

    #[test]
    fn gold_answers_follow_the_last_mark() {
        let line = r##"{"question": "q #### 1", "answer": "one #### 2\n#### 1,000 "}"##;
        assert_eq!(parse(1, line).unwrap().answer, "1,000");
    }

    #[test]
    fn a_malformed_line_is_named_by_file_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("train.jsonl");
        let good = r##"{"question": "q", "answer": "a\n#### 1"}"##;
        for (bad, fault) in [
            ("{\"question\": \"q\"", "EOF"),
            ("{\"question\": \"q\"}", "missing field `answer`"),
            (r#"{"question": "q", "answer": "1"}"#, "no `#### `"),
            (r#####"{"question": "q", "answer": "#### "}"#####, "nothing follows"),
            (r#####"{"question": " ", "answer": "#### 1"}"#####, "question is empty"),
            ("", "EOF"),
        ] {
            std::fs::write(&path, format!("{good}\n{good}\n{bad}\n{good}\n")).unwrap();
            let text = read_problems(&path).unwrap_err().to_string();
            assert!(text.contains("train.jsonl, line 3: "), "{text}");
            assert!(text.contains(fault), "{text}");
        }
        let text = read_problems(&directory.path().join("absent")).unwrap_err().to_string();
        assert!(text.contains("absent") && text.contains("data.path"), "{text}");
    }
}
