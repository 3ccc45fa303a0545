//! The design's list of bad input: one clear error that names the thing and the way out, a
//! non-zero exit, and nothing lost that was there before.

use std::net::TcpListener;
use std::path::Path;

use tests::{Ended, Run};

use crate::{LIMIT, small};

fn refused(args: &[&str], words: &[&str]) -> Run {
    let (run, ended) = Run::to_end(args, LIMIT);
    says(&ended, words);
    run
}

fn says(ended: &Ended, words: &[&str]) {
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no `{word}` in:\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// A copy of the miniature's strong model as a directory, with one file changed.
fn model_dir(at: &Path, change: impl FnOnce(&Path)) -> String {
    std::fs::create_dir_all(at).unwrap();
    let role = miniature::Role::Strong;
    std::fs::write(at.join("config.json"), miniature::config_json(role)).unwrap();
    std::fs::write(at.join("tokenizer.json"), miniature::tokenizer_json()).unwrap();
    std::fs::write(at.join("model.safetensors"), miniature::weights(role)).unwrap();
    change(at);
    format!("strong.model={}", at.display())
}

#[test]
fn a_wrong_key_is_named_with_the_right_one() {
    refused(&small(&["--set", "train.stepz=4"]), &["`train.stepz`", "did you mean `steps`"]);
}

#[test]
fn a_missing_model_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let set =
        model_dir(dir.path(), |at| std::fs::remove_file(at.join("model.safetensors")).unwrap());
    let missing = ["model.safetensors does not exist", "name another directory"];
    refused(&small(&["--set", &set]), &missing);
    let nowhere = ["nowhere does not exist", "give a Hugging Face model directory"];
    refused(&small(&["--set", "strong.model=nowhere"]), &nowhere);
}

#[test]
fn corrupt_weights_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let set = model_dir(dir.path(), |at| {
        let path = at.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    let corrupt = ["model.safetensors is not a valid safetensors file", "restore a checkpoint"];
    refused(&small(&["--set", &set]), &corrupt);
}

#[test]
fn weights_that_are_not_numbers_are_refused_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let set = model_dir(dir.path(), |at| {
        let path = at.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    });
    refused(
        &small(&["--set", &set]),
        &["tensor model.norm.weight holds a NaN", "restore a checkpoint"],
    );
}

#[test]
fn different_tokenizers_are_refused_where_they_differ() {
    let dir = tempfile::tempdir().unwrap();
    let set = model_dir(dir.path(), |at| {
        let other = miniature::tokenizer_json().replace("\"nug\"", "\"gun\"");
        std::fs::write(at.join("tokenizer.json"), other).unwrap();
    });
    refused(
        &small(&["--set", &set]),
        &["different tokenizers", "\" gun\" against \" nug\"", "two models of one family"],
    );
}

#[test]
fn a_malformed_gsm8k_line_is_named_by_file_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"question": "What is 1+1?", "answer": "1+1=2\n#### 2"}"#;
    std::fs::write(dir.path().join("train.jsonl"), format!("{good}\n{{\"question\": 3}}\n"))
        .unwrap();
    std::fs::write(dir.path().join("test.jsonl"), format!("{good}\n")).unwrap();
    let path = format!("data.path={}", dir.path().display());
    let args = ["--set", "data.source=gsm8k", "--set", &path];
    refused(&small(&args), &["train.jsonl, line 2", "each line is {\"question\": …"]);
}

#[test]
fn a_port_in_use_is_named() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let listen = format!("coordinator.listen={address}");
    refused(&small(&["--set", &listen]), &[&address, "choose another port"]);
}

#[test]
fn a_directory_with_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let path = dir.path().to_str().unwrap();
    refused(&["launch", "--actors", "1", "--run-dir", path], &[path, "choose another --run-dir"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("thesis.tex")).unwrap(), "years of work");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn wrong_flags_are_a_usage_error() {
    let (_run, ended) = Run::to_end(&["launch", "--actorz", "2"], LIMIT);
    ended.expect_code(2);
    says(&ended, &["'--actorz'", "'--actors'"]);
}

#[test]
fn config_check_reports_all_faults_together() {
    let args = ["config", "check", "--set", "train.stepz=4", "--set", "handoff.probability=2"];
    refused(&args, &["did you mean `steps`", "'2' is not a number from 0 to 1"]);
}
