//! The recipe on real GSM8K problems with a tiny random model: killed, gone on with, reported.

use std::path::Path;
use std::time::SystemTime;

use nix::sys::signal::Signal;
use tests::{Run, gsm8k_dir, wait_until};

use crate::LIMIT;

const SMALL: [&str; 14] = [
    "recipe.sft_steps=3",
    "recipe.sft_examples_per_step=4",
    "recipe.probe_problems=4",
    "train.steps=2",
    "train.problems_per_step=4",
    "train.lora.rank=2",
    "eval.problems=4",
    "sampling.max_tokens=24",
    "actor.slots=16",
    "actor.slot_tokens=512",
    "weak_server.session_tokens=512",
    "data.shard_problems=64",
    "checkpoint.every_steps=1",
    "seed=3",
];

fn command<'a>(model: &'a str, out: &'a str, data: &'a str) -> Vec<&'a str> {
    let mut args = vec!["recipe", "gsm8k-jargon", "--strong", model, "--weak", model, "--out", out];
    args.extend(["--set", data]);
    args.extend(SMALL.iter().flat_map(|pair| ["--set", *pair]));
    args
}

fn changed(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|m| m.modified()).unwrap()
}

#[test]
fn a_killed_recipe_goes_on_to_the_report_of_one_that_was_left_alone() {
    let Some(data) = gsm8k_dir("recipe") else { return };
    let data_dir = data.canonicalize().unwrap();
    let data = format!("data.path={}", data_dir.display());
    let scratch = tempfile::tempdir().unwrap();
    let [model, alone, killed] = ["tiny", "alone", "killed"]
        .map(|name| scratch.path().join(name).to_str().unwrap().to_owned());
    let tiny = ["model", "tiny", "--tokenizer-from", data_dir.to_str().unwrap(), "--out", &model];
    Run::to_end(&tiny, LIMIT).1.expect_code(0);
    let (run, ended) = Run::to_end(&command(&model, &alone, &data), LIMIT);
    ended.expect_code(0);
    assert!(ended.stderr.contains("[5/5] the control: training without handoffs"));
    drop(run);

    let out = Path::new(&killed);
    let mut run = Run::start(&command(&model, &killed, &data));
    let left = out.join("tandem/checkpoints/step-000001/state.json");
    wait_until("a checkpoint of the tandem arm", LIMIT, || left.exists().then_some(()));
    run.signal(Signal::SIGKILL);
    assert_eq!(run.wait(LIMIT).code, None);
    let done = [out.join("sft-weak/summary.json"), out.join("probe/probe-step-000000.json")];
    let before: Vec<SystemTime> = done.iter().map(|path| changed(path)).collect();

    let ended = run.then(&command(&model, &killed, &data), LIMIT);
    ended.expect_code(0);
    assert!(
        ended
            .stderr
            .contains("[3/5] the probe: which style can the weak model follow?: done before")
    );
    assert!(ended.stderr.contains("going on after step"), "{}", ended.stderr);
    assert_eq!(done.iter().map(|path| changed(path)).collect::<Vec<_>>(), before);
    let report = |dir: &str| std::fs::read_to_string(Path::new(dir).join("report.md")).unwrap();
    assert_eq!(report(&killed), report(&alone));
    assert!(ended.stdout.contains(&report(&killed)));
    for said in ["strong: tiny, weak: tiny", "no effect is to be expected", "Null result"] {
        assert!(report(&killed).contains(said), "{said}: {}", report(&killed));
    }
    // Handoffs in one arm, none in the other.
    let rollouts = |arm: &str| {
        std::fs::read_to_string(out.join(arm).join("rollouts/step-000001.jsonl")).unwrap()
    };
    assert!(rollouts("tandem").contains("\"weak\"") && !rollouts("control").contains("\"weak\""));

    let mut other = command(&model, &killed, &data);
    other.extend(["--set", "train.kl=0.5"]);
    let ended = run.then(&other, LIMIT);
    ended.expect_code(1);
    assert!(ended.stderr.contains("other settings (train.kl)"), "{}", ended.stderr);
}
