//! GSM8K from its public JSON-lines files. Grading its answers is the `tandem` crate's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use settings::{EvalSplit, Settings, SolutionStyle};
use types::{Problem, Shot};

use super::lead::{Lead, without_annotations};
use super::wants_solutions;
use crate::shard::{Dealer, Place, permutation};

/// So many problems of `train.jsonl` are held out for every evaluation but one on the test set.
pub const HELD_OUT: usize = 512;

const TRAIN: &str = "train.jsonl";
const TEST: &str = "test.jsonl";

const ANSWER_MARK: &str = "#### ";

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {path}: {cause}; data.path must name the directory that holds {file}")]
    Read { path: PathBuf, file: String, cause: std::io::Error },
    #[error(
        "{path}, line {line}: {fault}; each line is {{\"question\": …, \"answer\": …}} with the gold answer after `#### `"
    )]
    Line { path: PathBuf, line: usize, fault: String },
    #[error(
        "{path} has {found} problems but evaluation holds {HELD_OUT} out: set eval.enabled=false"
    )]
    TooFew { path: PathBuf, found: usize },
    #[error(
        "{path} has {found} problems to train on but prompts show {shots} examples: lower few_shot"
    )]
    Shots { path: PathBuf, found: usize, shots: usize },
}

/// The training file, split and ordered; and the test file where that is asked for.
#[derive(Clone, Debug)]
pub struct Gsm8k {
    problems: Vec<Problem>,
    /// Indices into `problems`.
    dealt: Vec<usize>,
    held_out: Vec<usize>,
    /// In the file's order.
    test: Option<Vec<Problem>>,
    shots: Vec<Shot>,
    /// Whether solutions travel with training problems.
    solutions: bool,
    style: Style,
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
        let path = Path::new(&settings.data.path).join(TRAIN);
        let problems = read_problems(&path)?;
        let too_few = |found| SourceError::TooFew { path: path.clone(), found };
        let mut source = Self::new(problems, settings).map_err(too_few)?;
        let shots = settings.shots();
        let short = |found| SourceError::Shots { path, found, shots };
        source.take_shots(shots, settings.data.shots_seed).map_err(short)?;
        Ok(source)
    }

    /// The same; with `eval.split = "test"` the test file's problems are evaluated. Nothing else
    /// opens that file.
    ///
    /// # Errors
    /// As [`Self::open`], for both files.
    pub fn open_for_evaluation(settings: &Settings) -> Result<Self, SourceError> {
        let mut source = Self::open(settings)?;
        if settings.eval.split == EvalSplit::Test {
            source.test = Some(read_problems(&Path::new(&settings.data.path).join(TEST))?);
        }
        Ok(source)
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
        let style = Style::of(settings);
        let (test, shots) = (None, Vec::new());
        Ok(Self { problems, dealt, held_out, test, shots, solutions, style, dealer, replacements })
    }

    /// Few-shot prompts show problems that are neither evaluated nor trained on: the first of the
    /// file, or those that a permutation drawn from `seed` puts first.
    fn take_shots(&mut self, count: usize, seed: u64) -> Result<(), usize> {
        if count == 0 {
            return Ok(());
        }
        if self.dealt.len() <= count {
            return Err(self.dealt.len());
        }
        let order: Vec<usize> = match seed {
            0 => (0..self.problems.len()).collect(),
            seed => {
                let order = permutation(seed, "shots", 0, self.problems.len() as u64);
                order.into_iter().map(|ordinal| ordinal as usize).collect()
            }
        };
        let dealt: BTreeSet<usize> = self.dealt.iter().copied().collect();
        let shown: Vec<usize> =
            order.into_iter().filter(|index| dealt.contains(index)).take(count).collect();
        self.dealt.retain(|index| !shown.contains(index));
        self.dealer.resize(self.dealt.len() as u64);
        self.replacements.resize(self.dealt.len() as u64);
        let shot = |index: usize| {
            let problem = &self.problems[index];
            let solution = self.style.solution(problem).unwrap_or_default();
            Shot { question: problem.question.clone(), solution }
        };
        self.shots = shown.into_iter().map(shot).collect();
        Ok(())
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
        let solution = self.style.solution(problem).filter(|_| self.solutions);
        Problem { solution, shots: self.shots.clone(), ..problem.clone() }
    }

    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        self.dealer.place(position)
    }

    /// A problem to evaluate: a held-out one, or one of the test file.
    ///
    /// # Panics
    /// Beyond the last of them.
    #[must_use]
    pub fn held_out(&self, ordinal: u64) -> Problem {
        let problem = self.evaluated(ordinal);
        Problem { solution: None, shots: self.shots.clone(), ..problem.clone() }
    }

    /// The same with the lead of its gold solution.
    ///
    /// # Panics
    /// Beyond the last of them.
    #[must_use]
    pub fn led(&self, ordinal: u64, lead: Lead) -> Problem {
        let solution = self.evaluated(ordinal).solution.as_deref();
        Problem { lead: solution.and_then(|text| lead.of(text)), ..self.held_out(ordinal) }
    }

    fn evaluated(&self, ordinal: u64) -> &Problem {
        let ordinal = ordinal as usize;
        match &self.test {
            Some(test) => &test[ordinal],
            None => &self.problems[self.held_out[ordinal]],
        }
    }

    #[must_use]
    pub fn held_out_problems(&self) -> u32 {
        self.test.as_ref().map_or(self.held_out.len(), Vec::len) as u32
    }

    /// How many problems one epoch deals.
    #[must_use]
    pub fn epoch_problems(&self) -> u64 {
        self.dealt.len() as u64
    }
}

/// How solutions are written.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Style {
    annotated_share: f64,
}

impl Style {
    fn of(settings: &Settings) -> Self {
        let annotated_share = match settings.data.style {
            SolutionStyle::Annotated => settings.data.annotated_share,
            SolutionStyle::Plain => 0.0,
        };
        Self { annotated_share }
    }

    /// The problem's solution with its annotations or without, which its question decides.
    fn solution(self, problem: &Problem) -> Option<String> {
        let hash = blake3::derive_key("tandem gsm8k style v1", problem.question.as_bytes());
        let bits = u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
        // The upper 53 bits, evenly in [0, 1).
        let drawn = (bits >> 11) as f64 * 0.5f64.powi(53);
        let annotated = drawn < self.annotated_share;
        let solution = problem.solution.as_deref()?;
        Some(if annotated { solution.to_owned() } else { without_annotations(solution) })
    }
}

/// All problems of one file; their ids are line numbers from 1.
///
/// # Errors
/// A missing or empty file, or the first malformed line by number.
pub fn read_problems(path: &Path) -> Result<Vec<Problem>, SourceError> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        SourceError::Read { path: path.to_owned(), file, cause: source }
    })?;
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
    Ok(Problem { id, question, solution: Some(solution), answer, shots: Vec::new(), lead: None })
}

#[cfg(test)]
mod tests;
