//! What a model's directory is made of, and the cache.

use serde_json::json;

use crate::hub::{COMMIT, Fault, etag};
use crate::{Desk, MODEL, read, weights};

#[test]
fn a_model_lies_in_the_cache_as_the_hubs_own_tools_leave_it() {
    let desk = Desk::with_model();
    let ended = desk.get(&[]).ok();
    let dir = ended.path();
    assert_eq!(dir, desk.cached().join("snapshots").join(COMMIT));
    assert_eq!(read(&dir.join("model.safetensors")), weights());
    assert_eq!(read(&dir.join("config.json")), b"{\"model_type\": \"llama\"}");
    let names = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    let blob = format!("../../blobs/{}", etag("model.safetensors", &weights()));
    assert_eq!(std::fs::read_link(dir.join("model.safetensors")).unwrap().to_str(), Some(&*blob));
    assert_eq!(read(&desk.cached().join("refs/main")), COMMIT.as_bytes());

    desk.hub.forget();
    assert_eq!(desk.get(&[]).ok().path(), dir);
    let seen = desk.hub.seen();
    assert!(!seen.iter().any(|request| request.cdn), "nothing comes twice: {seen:?}");
    assert_eq!(seen.iter().filter(|request| request.method == "HEAD").count(), 3);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let desk = Desk::with_model();
    let args = ["model", "get", "owner/small"];
    let ended = desk.run_with(&args, &[("HF_TOKEN", "hf_secret")]).ok();
    assert!(!ended.stderr.contains("hf_secret") && !ended.stdout.contains("hf_secret"));
    let seen = desk.hub.seen();
    let (cdn, hub): (Vec<_>, Vec<_>) = seen.into_iter().partition(|request| request.cdn);
    assert_eq!(cdn.len(), 1);
    assert!(cdn.iter().all(|request| request.authorization.is_none()), "{cdn:?}");
    let bearer = |r: &crate::hub::Seen| r.authorization.as_deref() == Some("Bearer hf_secret");
    assert!(hub.iter().all(bearer), "{hub:?}");
}

#[test]
fn shards_are_those_of_the_index_and_all_must_be_there() {
    let desk = Desk::new();
    let map = json!({ "a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors" });
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    let files: [(&str, &[u8]); 6] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1-of-2.safetensors", b"one"),
        ("model-2-of-2.safetensors", b"two"),
        ("other.safetensors", b"unwanted"),
    ];
    desk.hub.add(MODEL, &files);
    let out = desk.dir.path().join("out");
    let ended = desk.get(&["--out", "out"]).ok();
    assert_eq!(ended.path(), out);
    assert_eq!(read(&out.join("model-2-of-2.safetensors")), b"two");
    assert!(!std::fs::symlink_metadata(out.join("config.json")).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 5);

    desk.hub.add(MODEL, &files[..4]);
    desk.get(&[]).says(&["owner/small has no file model-2-of-2.safetensors", "it has config.json"]);
}

#[test]
fn a_gguf_file_is_fetched_by_name() {
    let desk = Desk::new();
    desk.hub.add(MODEL, &[("q4.gguf", b"GGUF four"), ("q8.gguf", b"GGUF eight")]);
    desk.get(&[]).says(&["choose one with --file, of q4.gguf, q8.gguf"]);
    let path = desk.get(&["--file", "q8.gguf"]).ok().path();
    assert_eq!(read(&path), b"GGUF eight");
    desk.get(&["--file", "q2.gguf"]).says(&["no file q2.gguf", "it has q4.gguf, q8.gguf"]);
}

#[test]
fn a_repository_without_a_model_says_what_it_has() {
    let desk = Desk::new();
    desk.hub.add(MODEL, &[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")]);
    desk.get(&[]).says(&["owner/small has no safetensors", "pytorch_model.bin"]);
    desk.hub.add(MODEL, &[("config.json", b"{}"), ("model.safetensors", b"x")]);
    desk.get(&[]).says(&["owner/small has no file tokenizer.json"]);
}

#[test]
fn a_repository_that_got_another_name_is_found() {
    let desk = Desk::with_model();
    let new = format!("/owner/small/resolve/{COMMIT}/config.json");
    desk.hub.add(
        "models/owner/old",
        &[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"")],
    );
    desk.hub.fault(
        "/old/resolve/5a1b2c3d4e5f60718293a4b5c6d7e8f901234567/config.json",
        Fault::Moved(new),
    );
    let ended = desk.run(&["model", "get", "owner/old"]).ok();
    assert_eq!(read(&ended.path().join("config.json")), b"{\"model_type\": \"llama\"}");
}

#[test]
fn an_out_directory_that_holds_something_is_left_alone() {
    let desk = Desk::with_model();
    std::fs::create_dir(desk.dir.path().join("out")).unwrap();
    std::fs::write(desk.dir.path().join("out/mine"), "mine").unwrap();
    desk.get(&["--out", "out"]).says(&["out is not empty", "choose another"]);
    assert!(desk.hub.seen().is_empty(), "nothing is fetched for nothing");
}
