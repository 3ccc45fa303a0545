//! Connections that break, files that are not what they should be, and refusals: one clear error
//! each, and what came stays.

use std::net::TcpListener;

use crate::hub::{Fault, Seen};
use crate::{Desk, read, weights};

const WEIGHTS: &str = "model.safetensors";

fn ranges(seen: &[Seen]) -> Vec<Option<&str>> {
    seen.iter().filter(|request| request.cdn).map(|request| request.range.as_deref()).collect()
}

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    let desk = Desk::with_model();
    desk.hub.fault(WEIGHTS, Fault::Cut { bytes: 1_000, times: 3 });
    // Each try brings bytes, so that one retry is enough for three breaks.
    let ended = desk.get(&["--retries", "1"]).ok();
    assert_eq!(read(&ended.path().join(WEIGHTS)), weights());
    let from = ["bytes=1000-", "bytes=2000-", "bytes=3000-"];
    assert_eq!(ranges(&desk.hub.seen())[1..], from.map(Some));
}

#[test]
fn a_truncated_download_is_an_error_and_the_next_command_goes_on_from_there() {
    let desk = Desk::with_model();
    desk.hub.fault(WEIGHTS, Fault::Cut { bytes: 5_000, times: 1 });
    let words = ["model.safetensors came only in part, 5000 of 800000 bytes", "goes on from there"];
    desk.get(&["--retries", "0"]).says(&words);
    assert_eq!(read(&desk.partial()), weights()[..5_000]);
    assert!(!desk.cached().join("snapshots").join(crate::hub::COMMIT).join(WEIGHTS).exists());

    desk.hub.forget();
    let ended = desk.get(&["--retries", "0"]).ok();
    assert_eq!(read(&ended.path().join(WEIGHTS)), weights());
    assert_eq!(ranges(&desk.hub.seen()), [Some("bytes=5000-")]);
    assert!(!desk.partial().exists());
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let desk = Desk::with_model();
    desk.hub.fault(WEIGHTS, Fault::Cut { bytes: 5_000, times: 1 });
    desk.hub.fault(WEIGHTS, Fault::NoRange);
    let ended = desk.get(&["--retries", "1"]).ok();
    assert_eq!(read(&ended.path().join(WEIGHTS)), weights());
}

#[test]
fn damaged_bytes_are_refused_and_not_kept() {
    let desk = Desk::with_model();
    desk.hub.fault(WEIGHTS, Fault::Damaged);
    let ended = desk.get(&["--retries", "1"]);
    let ended = ended.says(&["model.safetensors is damaged, its SHA-256 is", "the hub says"]);
    assert_eq!(ended.stderr.matches("is damaged").count(), 2, "tried twice: {}", ended.stderr);
    assert_eq!(read(&desk.partial()), b"");

    let desk = Desk::with_model();
    desk.hub.fault("tokenizer.json", Fault::Damaged);
    desk.get(&["--retries", "0"]).says(&["tokenizer.json is damaged, its git hash is"]);
}

#[test]
fn too_many_bytes_from_an_earlier_try_are_fetched_anew() {
    let desk = Desk::with_model();
    std::fs::create_dir_all(desk.partial().parent().unwrap()).unwrap();
    std::fs::write(desk.partial(), vec![7; 900_000]).unwrap();
    let ended = desk.get(&["--retries", "0"]).ok();
    assert_eq!(read(&ended.path().join(WEIGHTS)), weights());
}

#[test]
fn another_process_that_fetches_the_same_file_is_not_disturbed() {
    let desk = Desk::with_model();
    std::fs::create_dir_all(desk.partial().parent().unwrap()).unwrap();
    let file = std::fs::File::create(desk.partial()).unwrap();
    file.lock().unwrap();
    desk.get(&[]).says(&[".incomplete is being downloaded by another process"]);
}

#[test]
fn a_gated_repository_says_how_to_get_in() {
    let desk = Desk::with_model();
    let gated = Fault::Status { status: 401, code: "GatedRepo", times: 1 };
    desk.hub.fault("/revision/main", gated);
    let page = format!("accept its licence at {}/owner/small", desk.hub.endpoint);
    desk.get(&[]).says(&["owner/small is gated", "no token was sent", &page, "set HF_TOKEN"]);
    // Some gated repositories show their lists but not their files.
    desk.hub.fault(WEIGHTS, Fault::Status { status: 403, code: "GatedRepo", times: 1 });
    let args = ["model", "get", "owner/small"];
    let ended = desk.run_with(&args, &[("HF_TOKEN", "hf_secret")]);
    let ended = ended.says(&["is gated", "the token that was sent has no access"]);
    assert!(!ended.stderr.contains("hf_secret"), "{}", ended.stderr);
}

#[test]
fn what_is_not_there_is_named() {
    let desk = Desk::with_model();
    desk.run(&["model", "get", "owner/absent"])
        .says(&["there is no repository owner/absent on", "check its name"]);
    desk.hub
        .fault("/revision/v9", Fault::Status { status: 404, code: "RevisionNotFound", times: 1 });
    desk.get(&["--revision", "v9"]).says(&["owner/small has no revision v9", "--revision"]);
    let hidden = Fault::Status { status: 401, code: "RepoNotFound", times: 1 };
    desk.hub.fault("/revision/main", hidden);
    desk.get(&[]).says(&["does not show owner/small (401)", "set HF_TOKEN"]);
    desk.run(&["model", "get", "small"]).says(&["`small` names no repository: write OWNER/NAME"]);
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let desk = Desk::with_model();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let endpoint = format!("http://{address}");
    let args = ["model", "get", "owner/small", "--retries", "1", "--retry-wait-ms", "1"];
    let ended = desk.run_with(&args, &[("HF_ENDPOINT", &endpoint)]);
    let ended = ended.says(&[&format!("cannot reach {address}"), "HF_ENDPOINT"]);
    assert!(ended.stderr.contains("trying again"), "{}", ended.stderr);
}

#[test]
fn a_hub_that_falls_silent_is_left() {
    let desk = Desk::with_model();
    desk.hub.fault(WEIGHTS, Fault::Silent);
    desk.get(&["--silence-ms", "200", "--retries", "0"]).says(&["cannot reach", "timeout"]);
}

#[test]
fn a_passing_fault_passes() {
    let desk = Desk::with_model();
    desk.hub.fault("/revision/main", Fault::Status { status: 503, code: "", times: 2 });
    desk.hub.fault(WEIGHTS, Fault::Status { status: 500, code: "", times: 1 });
    let ended = desk.get(&["--retries", "2"]).ok();
    assert_eq!(read(&ended.path().join(WEIGHTS)), weights());
    desk.hub.fault("/revision/main", Fault::Status { status: 503, code: "", times: 2 });
    desk.get(&["--retries", "1"]).says(&["answered 503 for owner/small", "try again later"]);
}
