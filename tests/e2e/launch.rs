//! A short run from start to end: what it prints and what it leaves behind.

use serde_json::Value;
use tests::Run;

use crate::{LIMIT, small};

/// Of one line of `rollouts/`, sorted: the design's, and what else a reader asks for.
const ROLLOUT_KEYS: [&str; 18] = [
    "answered_by",
    "authors",
    "correct",
    "epoch",
    "extracted",
    "finish",
    "gold",
    "group",
    "logprobs",
    "policy_versions",
    "prompt",
    "purpose",
    "reward",
    "sample",
    "schedule",
    "text",
    "tokens",
    "weak_logprobs",
];

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_ends_with_its_table_and_a_whole_run_directory() {
    let (mut run, ended) = Run::to_end(&small(&["--steps", "4", "--seed", "3"]), LIMIT);
    ended.expect_code(0);
    for word in ["before", "after", "jargon", "token:0.25", "line:0.5", "weak"] {
        assert!(ended.stdout.contains(word), "no {word} in:\n{}", ended.stdout);
    }

    let summary = run.summary();
    assert_eq!(summary.number("steps") as u32, 4);
    assert_eq!(summary.number("seed") as u32, 3);
    assert_eq!(summary.number("groups/consumed") as u32, 4 * 8);
    let trained = summary.number("groups/trained") + summary.number("groups/zero_variance");
    assert_eq!(trained as u32, 4 * 8);
    assert_eq!(summary.number("groups/trained_twice") as u32, 0);
    assert_eq!(summary.number("before/problems") as u32, 16);
    for side in ["before", "after"] {
        for key in ["solo_accuracy", "solo_accuracy_greedy", "jargon_rate", "weak_solo_accuracy"] {
            let value = summary.number(&format!("{side}/{key}"));
            assert!((0.0..=1.0).contains(&value), "{side} {key} {value}");
        }
    }
    let share = summary.weak_share();
    assert!((0.15..0.35).contains(&share), "weak share {share}");

    let processes = ["actor-0", "actor-1", "coordinator", "learner-0", "weak-server-0"];
    assert_eq!(run.logs(), processes.map(str::to_owned).into());
    let steps = lines(&run.dir().join("metrics.jsonl"));
    let numbers: Vec<_> = steps.iter().map(|s| s["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);

    let rollouts = lines(&run.dir().join("rollouts/step-000002.jsonl"));
    assert!(!rollouts.is_empty());
    for rollout in &rollouts {
        let keys: Vec<_> = rollout.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ROLLOUT_KEYS);
        let tokens = rollout["tokens"].as_array().unwrap().len();
        assert_eq!(rollout["authors"].as_array().unwrap().len(), tokens);
        assert!(rollout["prompt"].as_str().unwrap().contains("how many"), "{rollout}");
        assert_eq!(rollout["logprobs"].as_array().unwrap().len(), tokens);
        assert!(rollout["gold"].is_string() && rollout["text"].is_string(), "{rollout}");
        // What was read out of the text, and what that earned.
        let extracted = rollout["extracted"].as_str();
        let answered = extracted.map(|answer| format!("#### {answer}"));
        let text = rollout["text"].as_str().unwrap();
        assert!(answered.is_none_or(|answer| text.contains(&answer)), "{rollout}");
        let correct = rollout["correct"].as_bool().unwrap();
        assert!(!correct || extracted == rollout["gold"].as_str(), "{rollout}");
        assert_eq!(rollout["reward"].as_f64(), Some(f64::from(u8::from(correct))), "{rollout}");
    }

    let last = run.dir().join("checkpoints/step-000004");
    for file in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ] {
        assert!(last.join(file).is_file(), "no {file} in {}", last.display());
    }

    let evaluated = run.then(&["eval", "{dir}", "--limit", "8"], LIMIT);
    evaluated.expect_code(0);
    assert!(evaluated.stdout.contains("token:0.25"), "{}", evaluated.stdout);
}

#[test]
fn groups_that_teach_nothing_are_replaced_once_within_their_step() {
    let changed = ["train.refill=true", "train.samples_per_problem=2", "eval.enabled=false"];
    let changed = changed.iter().flat_map(|key| ["--set", key]);
    let args: Vec<&str> = ["--steps", "6"].into_iter().chain(changed).collect();
    let (run, ended) = Run::to_end(&small(&args), LIMIT);
    ended.expect_code(0);
    let steps = lines(&run.dir().join("metrics.jsonl"));
    let replaced: f64 =
        steps.iter().map(|step| step["values"]["replaced_groups"].as_f64().unwrap()).sum();
    // About half of all pairs of samples agree at the start.
    assert!((5.0..=48.0).contains(&replaced), "{replaced} groups were replaced");
    let summary = run.summary();
    let of = |key: &str| summary.number(&format!("groups/{key}"));
    assert_eq!((of("consumed"), of("trained_twice")), (48.0, 0.0));
    assert!(of("leased") >= 48.0 + replaced, "{} leases", of("leased"));
    assert!(of("zero_variance") <= replaced, "{} teach nothing", of("zero_variance"));
}

#[test]
fn the_plan_is_shown_without_starting_anything() {
    let (run, ended) = Run::to_end(&small(&["--dry-run"]), LIMIT);
    ended.expect_code(0);
    assert!(
        ended.stdout.contains("actor") && ended.stdout.contains("weak-server"),
        "{}",
        ended.stdout
    );
    assert!(!run.dir().join("logs").exists());
}
