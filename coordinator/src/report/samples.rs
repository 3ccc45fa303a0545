//! Rollouts as a reader sees them: who wrote which words, what was read out of them and what that
//! earned. First and last step side by side.

use serde::Serialize;

use super::decode::{Decoder, Words};
use super::record::{Record, RolloutLine, Sampled};

/// Of each step.
const ROLLOUTS: usize = 3;
/// Of one text, words of both authors together; a page with more is not read.
const WORDS_CHARS_MAX: usize = 4_000;

#[derive(Debug, Serialize)]
pub(super) struct Samples {
    pub(super) run: usize,
    /// Whether it is known who wrote what.
    pub(super) coloured: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) step: u32,
    pub(super) rollouts: Vec<Sample>,
}

#[derive(Debug, Serialize)]
pub(super) struct Sample {
    pub(super) prompt: String,
    pub(super) words: Vec<Shown>,
    /// Of the tokens.
    pub(super) weak_percent: String,
    pub(super) reward: String,
    pub(super) correct: bool,
    pub(super) extracted: Option<String>,
    pub(super) gold: String,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Shown {
    /// A class of the page.
    pub(super) author: &'static str,
    pub(super) text: String,
}

/// Of the runs that wrote some down.
pub(super) fn samples(records: &[Record]) -> Vec<Samples> {
    let of = |(run, record): (usize, &Record)| {
        let decoder = Decoder::of(&record.dir, &record.settings);
        let steps = record.samples.iter().map(|sampled| step(sampled, decoder.as_ref()));
        let steps: Vec<Step> = steps.filter(|step| !step.rollouts.is_empty()).collect();
        (!steps.is_empty()).then_some(Samples { run, coloured: decoder.is_some(), steps })
    };
    records.iter().enumerate().filter_map(of).collect()
}

/// Those that both models wrote come first.
fn step(sampled: &Sampled, decoder: Option<&Decoder>) -> Step {
    let mut rollouts: Vec<&RolloutLine> = sampled.rollouts.iter().collect();
    rollouts.sort_by_key(|rollout| rollout.authors.iter().all(|author| author == "strong"));
    let shown = rollouts.into_iter().take(ROLLOUTS).map(|rollout| sample(rollout, decoder));
    Step { step: sampled.step, rollouts: shown.collect() }
}

fn sample(rollout: &RolloutLine, decoder: Option<&Decoder>) -> Sample {
    let words = decoder.and_then(|decoder| decoder.words(&rollout.tokens, &rollout.authors));
    let unknown = || vec![Words { author: String::new(), text: rollout.text.clone() }];
    let weak = rollout.authors.iter().filter(|author| *author == "weak").count();
    let share = 100.0 * weak as f64 / rollout.authors.len().max(1) as f64;
    Sample {
        prompt: shortened(&rollout.prompt, WORDS_CHARS_MAX),
        words: shown(words.unwrap_or_else(unknown)),
        weak_percent: format!("{share:.0}"),
        reward: format!("{}", rollout.reward),
        correct: rollout.correct,
        extracted: rollout.extracted.clone(),
        gold: rollout.gold.clone(),
    }
}

fn shown(words: Vec<Words>) -> Vec<Shown> {
    let mut left = WORDS_CHARS_MAX;
    let mut found = Vec::new();
    for Words { author, text } in words {
        if left == 0 {
            break;
        }
        let author = match author.as_str() {
            "strong" => "strong",
            "weak" => "weak",
            _ => "unknown",
        };
        let text = shortened(&text, left);
        left = left.saturating_sub(text.chars().count());
        found.push(Shown { author, text });
    }
    found
}

fn shortened(text: &str, chars_max: usize) -> String {
    let mut shown: String = text.chars().take(chars_max).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
