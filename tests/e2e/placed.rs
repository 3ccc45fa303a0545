//! Several weak-servers, GPUs as settings name them, and an export of what a run left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tests::Run;

use crate::{LIMIT, small};

/// The weak-server that an actor's log says it talks to.
fn weak_server(log: &str) -> &str {
    let (before, _) =
        log.split_once("connected to a weak server").unwrap_or_else(|| panic!("{log}"));
    let after = &log[before.len()..];
    let line = after.lines().next().unwrap_or_default();
    line.split_once("address=").map_or(line, |(_, address)| address.trim_matches('"'))
}

#[test]
fn two_weak_servers_share_two_actors_and_the_best_checkpoint_is_exported() {
    let more = ["--steps", "4", "--weak-servers", "2", "--set", "eval.every_steps=2"];
    let (mut run, ended) = Run::to_end(&small(&more), LIMIT);
    ended.expect_code(0);
    let logs = run.logs();
    assert!(logs.contains("weak-server-0") && logs.contains("weak-server-1"), "{logs:?}");
    let (first, second) = (run.log("actor-0"), run.log("actor-1"));
    let servers = BTreeSet::from([weak_server(&first), weak_server(&second)]);
    assert_eq!(servers.len(), 2, "each actor has a server of its own: {servers:?}");

    let checkpoints = run.dir().join("checkpoints");
    let mean = |step: u32| {
        let path = checkpoints.join(format!("step-{step:06}/evaluation.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{step}: {e}"));
        let value: Value = serde_json::from_str(&text).unwrap();
        let accuracies = value["tandem_accuracy"].as_object().unwrap().values();
        accuracies.map(|accuracy| accuracy.as_f64().unwrap()).sum::<f64>() / 2.0
    };
    let best = if mean(2) > mean(4) { 2 } else { 4 };
    let out = run.dir().join("exported");
    let (dir, out) = (run.dir(), out.to_str().unwrap().to_owned());
    let dir = dir.to_str().unwrap();
    let export = ["model", "export", dir, "--checkpoint", "best", "--dtype", "f32", "--out", &out];
    let exported = run.then(&export, LIMIT);
    exported.expect_code(0);
    assert!(exported.stdout.starts_with(&format!("step {best}: ")), "{}", exported.stdout);
    assert!(exported.stdout.contains("vllm serve") && exported.stdout.contains("lm_eval"));

    // The exported model is a strong model as any other, and in several files the same one.
    let strong = format!("strong.model={out}");
    let mut evaluated = |name: &str, strong: &str| {
        let into = run.dir().join(name);
        let into_set = format!("run.dir={}", into.display());
        let set = ["--set", strong, "--set", "weak.model=builtin:miniature-weak"];
        let eval = ["eval", "--config", "miniature", "--limit", "8", "--set", &into_set];
        run.then(&[eval.as_slice(), &set].concat(), LIMIT).expect_code(0);
        let text = std::fs::read_to_string(into.join("eval-step-000000.json")).unwrap();
        let learner = into.join("logs/learner-0.log").exists();
        (serde_json::from_str::<Value>(&text).unwrap(), learner)
    };
    let (whole, published) = evaluated("whole", &strong);
    assert_eq!((&whole["problems"], published), (&8.into(), true), "{whole}");
    put_in_parts(Path::new(&out));
    assert_eq!(evaluated("parts", &strong).0, whole);
    let part = Path::new(&out).join("model-00001-of-00001.safetensors");
    std::fs::rename(&part, Path::new(&out).join("model.safetensors")).unwrap();
    add_tensor(&Path::new(&out).join("model.safetensors"), "vision_tower.scale");
    assert_eq!(evaluated("seeing", &strong).0, whole, "what is not the decoder's is left alone");
    // A run's own checkpoint is served as it lies.
    let checkpoint = format!("strong.model={}/step-{best:06}", checkpoints.display());
    let (again, published) = evaluated("checkpoint", &checkpoint);
    assert!(!published && again == whole, "{again}");
}

/// As published files hold tensors of parts that are not the decoder's.
fn add_tensor(path: &Path, name: &str) {
    let bytes = std::fs::read(path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, numbers) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let place = [numbers.len(), numbers.len() + 4];
    header[name] = serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": place});
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    let more = 0.5f32.to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), numbers, &more].concat()).unwrap();
}

/// Names the only file of weights as the first of several.
fn put_in_parts(model: &Path) {
    let (whole, part) = (model.join("model.safetensors"), "model-00001-of-00001.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let names = header.into_keys().filter(|name| name != "__metadata__");
    let map: BTreeMap<String, &str> = names.map(|name| (name, part)).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    std::fs::rename(whole, model.join(part)).unwrap();
}

#[test]
fn a_plan_names_every_gpu_and_what_does_not_fit() {
    let plan = |more: &[&str]| {
        let args = [&["launch", "--dry-run", "--actors", "2", "--learners", "2"], more].concat();
        Run::to_end(&args, LIMIT).1
    };
    let ended = plan(&["--set", "placement.gpus=2x8000"]);
    ended.expect_code(0);
    for words in ["colocated on 2 GPUs", "GPU 1: ", "learner-1", "moments"] {
        assert!(ended.stdout.contains(words), "no `{words}` in:\n{}", ended.stdout);
    }
    let ended = plan(&["--set", "placement.gpus=8000,600"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("GPU 1: ") && ended.stderr.contains("TOO MUCH"), "{ended:?}");
}
