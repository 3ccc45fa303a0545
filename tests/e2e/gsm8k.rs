//! Real GSM8K problems with a tiny random model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coordinator::source::Gsm8k;
use serde_json::Value;
use settings::Settings;
use tests::{Run, gsm8k_dir};

use crate::LIMIT;

fn loss(step: &Value) -> f64 {
    step["values"]["loss"].as_f64().unwrap_or_else(|| panic!("no loss in {step}"))
}

fn steps(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_tiny_model_learns_from_real_solutions_and_writes_real_rollouts() {
    let Some(data) = gsm8k_dir("gsm8k smoke") else { return };
    let data = data.canonicalize().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let model = scratch.path().join("tiny");
    let model = model.to_str().unwrap();
    let data_dir = data.to_str().unwrap();
    let tiny = ["model", "tiny", "--tokenizer-from", data_dir, "--out", model];
    Run::to_end(&tiny, LIMIT).1.expect_code(0);

    let (data, strong) = (format!("data.path={data_dir}"), format!("strong.model={model}"));
    let settings =
        ["--config", "gsm8k-smoke", "--set", &data, "--set", &strong, "--run-dir", "{dir}"];
    let tuned = [&["sft", "--steps", "20"], settings.as_slice()].concat();
    let (run, ended) = Run::to_end(&tuned, LIMIT);
    ended.expect_code(0);
    let losses: Vec<_> = steps(&run.dir()).iter().map(loss).collect();
    drop(run);
    assert_eq!(losses.len(), 20);
    assert!(losses[19] <= 0.8 * losses[0], "{losses:?}");

    let trained = [&["launch", "--actors", "2", "--steps", "3"], settings.as_slice()].concat();
    let (run, ended) = Run::to_end(&trained, LIMIT);
    ended.expect_code(0);
    let steps = steps(&run.dir());
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|s| s["groups"]["trained"] == 0), "{steps:?}");
    let questions = std::fs::read_to_string(Path::new(data_dir).join("train.jsonl")).unwrap();
    let rollouts = std::fs::read_to_string(run.dir().join("rollouts/step-000001.jsonl")).unwrap();
    for line in rollouts.lines() {
        let rollout: Value = serde_json::from_str(line).unwrap();
        let prompt = rollout["prompt"].as_str().unwrap();
        let question = prompt.trim_start_matches("Question: ").lines().next().unwrap();
        let quoted = serde_json::to_string(question).unwrap();
        assert!(questions.contains(&quoted[1..quoted.len() - 1]), "{question}");
        assert!(rollout["gold"].as_str().unwrap().parse::<f64>().is_ok(), "{rollout}");
        // A random model may answer nothing; what it answers is a number that it wrote.
        let text = rollout["text"].as_str().unwrap().replace([',', '$'], "");
        match rollout.get("extracted") {
            Some(Value::Null) => {}
            Some(Value::String(answer)) => assert!(text.contains(answer.as_str()), "{rollout}"),
            other => panic!("extracted is {other:?} in {rollout}"),
        }
        let authors = rollout["authors"].as_array().unwrap();
        assert!(authors.iter().any(|a| a == "weak") && authors.iter().any(|a| a == "strong"));
    }
    let before = tensors(&Path::new(model).join("model.safetensors"));
    let after = tensors(&run.dir().join("checkpoints/step-000003/model.safetensors"));
    assert!(before.contains_key("model.embed_tokens.weight"), "{:?}", before.keys());
    assert!(before == after, "weights changed without a live group");
}

/// Type, shape and bytes of every tensor of a safetensors file, by name.
fn tensors(path: &Path) -> BTreeMap<String, (Value, Value, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, body) = rest.split_at(length);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let read = |(name, tensor): (String, Value)| {
        let offset = |end: usize| tensor["data_offsets"][end].as_u64().unwrap() as usize;
        let values = body[offset(0)..offset(1)].to_vec();
        (name, (tensor["dtype"].clone(), tensor["shape"].clone(), values))
    };
    tensors.map(read).collect()
}

#[test]
fn the_test_set_is_evaluated_by_every_grader_when_asked_for_by_name() {
    let Some(data) = gsm8k_dir("gsm8k evaluation") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (model, data) = (scratch.path().join("tiny"), data.canonicalize().unwrap());
    let (model, data_dir) = (model.to_str().unwrap(), data.to_str().unwrap());
    let tiny = ["model", "tiny", "--tokenizer-from", data_dir, "--out", model];
    Run::to_end(&tiny, LIMIT).1.expect_code(0);
    let (data, strong) = (format!("data.path={data_dir}"), format!("strong.model={model}"));
    let sets = [
        data.as_str(),
        strong.as_str(),
        "run.dir={dir}",
        "strong.prompt.template=gsm8k-5shot",
        "actor.slot_tokens=2048",
        "eval.schedules=word:0.5",
        "eval.samples=3",
        "eval.pass_at=1,3",
        "sampling.max_tokens=16",
        "sampling.stop_texts=e",
    ];
    let mut args = vec!["eval", "--config", "gsm8k-smoke", "--limit", "5", "--split", "test"];
    args.extend(sets.iter().flat_map(|set| ["--set", *set]));
    let (run, ended) = Run::to_end(&args, LIMIT);
    ended.expect_code(0);
    assert!(ended.stdout.contains("5 test problems"), "{}", ended.stdout);
    assert!(ended.stdout.contains("\ntandem, word:0.5       pass@3  "), "{}", ended.stdout);
    let text = std::fs::read_to_string(run.dir().join("eval-test-step-000000.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&result["problems"], &result["test_set"]), (&5.into(), &true.into()));
    let lines = result["pass_at"].as_array().unwrap();
    // Three graders, two k and three sampled arms; the greedy one has one sample.
    assert_eq!(lines.len(), 3 * (2 * 3 + 1), "{text}");
    for line in lines {
        let bound = |name: &str| line[name].as_f64().unwrap();
        assert!(bound("low") <= bound("value") && bound("value") <= bound("high"), "{line}");
        let samples = if line["arm"] == "solo_greedy" { 1 } else { 3 };
        assert_eq!(line["samples"], samples, "{line}");
    }
}

#[test]
fn an_epoch_deals_every_problem_of_the_real_file_once() {
    let Some(data) = gsm8k_dir("gsm8k epoch") else { return };
    let mut settings = Settings::default();
    settings.data.path = data.to_str().unwrap().to_owned();
    settings.eval.enabled = false;
    let mut source = Gsm8k::open(&settings).unwrap();
    assert_eq!(source.epoch_problems(), 7_473);
    let questions = std::fs::read_to_string(data.join("train.jsonl")).unwrap();
    let question = |line: &str| {
        let parsed: Value = serde_json::from_str(line).unwrap();
        parsed["question"].as_str().unwrap().to_owned()
    };
    let mut expected: Vec<String> = questions.lines().map(question).collect();
    let mut dealt: Vec<String> = (0..7_473).map(|at| source.train(at).question).collect();
    assert_ne!(dealt, expected, "dealt in a drawn order");
    let ids: BTreeSet<u64> = (0..7_473).map(|at| source.train(at).id).collect();
    assert_eq!(ids.len(), 7_473);
    expected.sort();
    dealt.sort();
    assert_eq!(dealt, expected);
}
