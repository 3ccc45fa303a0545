//! Some rollouts of every step as JSON lines, for reading. Training never reads them back.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use model::Tokenizer;
use serde_json::{Value, json};
use types::{Author, Finish, Rollout, RolloutGroup};

/// The `rollouts` directory of a run.
pub struct RolloutLog {
    dir: PathBuf,
    tokenizer: Tokenizer,
    /// Of each step; 0: no file.
    sampled: usize,
}

impl RolloutLog {
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: PathBuf, tokenizer: Tokenizer, sampled: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, tokenizer, sampled: sampled as usize })
    }

    /// Writes `step-NNNNNN.jsonl`; `step` is the number of steps taken with this one.
    ///
    /// # Errors
    /// The file cannot be written, or a prompt does not decode.
    pub fn write(&self, step: u32, groups: &[RolloutGroup]) -> anyhow::Result<()> {
        let mut text = String::new();
        for (group, sample) in chosen(groups, self.sampled, step as usize) {
            let line = self.line(&groups[group], &groups[group].samples[sample])?;
            text.push_str(&line.to_string());
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(format!("step-{step:06}.jsonl"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn line(&self, group: &RolloutGroup, rollout: &Rollout) -> anyhow::Result<Value> {
        let (parts, response) = (rollout.parts(), rollout.response());
        let authors: Vec<&str> = parts.authors[response.clone()].iter().map(|a| a.name()).collect();
        let strong = parts.authors.iter().zip(&parts.versions);
        let strong = strong.filter(|(author, _)| **author == Author::Strong);
        let mut versions: Vec<_> = strong.map(|(_, version)| *version).collect();
        versions.sort_unstable();
        versions.dedup();
        Ok(json!({
            "group": group.group.0,
            "epoch": group.epoch.0,
            "sample": parts.sample.0,
            "purpose": group.purpose.name(),
            "schedule": group.schedule,
            "policy_versions": versions.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "prompt": self.tokenizer.decode(&parts.tokens[..parts.prompt_len])?,
            "text": parts.verdict.text,
            "tokens": parts.tokens[response.clone()],
            "authors": authors,
            "logprobs": numbers(&parts.logprobs[response.clone()]),
            "weak_logprobs": numbers(&parts.weak_logprobs[response]),
            "finish": match parts.finish {
                Finish::End => "end",
                Finish::Truncated => "truncated",
            },
            "extracted": parts.verdict.extracted,
            "answered_by": parts.verdict.answered_by.map(Author::name),
            "gold": group.problem.answer,
            "correct": parts.verdict.correct,
            "reward": parts.verdict.reward,
        }))
    }
}

/// `null` where a number is not known.
fn numbers(column: &[f32]) -> Vec<Option<f32>> {
    column.iter().map(|value| value.is_finite().then_some(*value)).collect()
}

/// (group, sample) places, spread over the groups; which samples changes with the step.
fn chosen(groups: &[RolloutGroup], count: usize, step: usize) -> Vec<(usize, usize)> {
    let deepest = groups.iter().map(|group| group.samples.len()).max().unwrap_or(0);
    let few = count.clamp(1, groups.len().max(1));
    let mut places = Vec::new();
    for round in 0..deepest {
        // Fewer than groups: evenly spaced ones, so that not always the first are read.
        for index in 0..few {
            let group = index * groups.len() / few;
            let samples = groups[group].samples.len();
            if round < samples && places.len() < count {
                places.push((group, (step + round) % samples));
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Miniature;

    #[test]
    fn places_are_spread_and_never_repeat() {
        let world = Miniature::small();
        let groups = [world.group(0, 0), world.group(1, 0)];
        assert_eq!(chosen(&groups, 2, 1), [(0, 1), (1, 1)]);
        let mut all = chosen(&groups, 100, 3);
        assert_eq!(all.len(), 2 * groups[0].samples.len());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 * groups[0].samples.len());
        assert!(chosen(&[], 8, 0).is_empty() && chosen(&groups, 0, 0).is_empty());
    }

    #[test]
    fn a_line_says_who_wrote_what() {
        let world = Miniature::small();
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = world.files.tokenizer.clone();
        let log = RolloutLog::open(dir.path().join("rollouts"), tokenizer, 3).unwrap();
        let groups = [world.group(0, 0), world.group(1, 0)];
        log.write(7, &groups).unwrap();
        let text = fs::read_to_string(dir.path().join("rollouts/step-000007.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        let line = &lines[0];
        assert_eq!(line["prompt"], groups[0].problem.question);
        assert_eq!(line["gold"], groups[0].problem.answer);
        assert_eq!(line["purpose"], "train");
        let tokens = line["tokens"].as_array().unwrap().len();
        for column in ["authors", "logprobs", "weak_logprobs"] {
            assert_eq!(line[column].as_array().unwrap().len(), tokens, "{column}");
        }
        assert!(line["authors"].as_array().unwrap().iter().any(|a| a == "strong"));
        assert_eq!(line["weak_logprobs"][0], Value::Null);
    }
}
