//! The sink against a server on this machine that answers as MLflow does, or does wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::eval_plan::EvalResult;
use crate::metrics_log::MetricsLog;
use crate::run_dir::RunDir;
use crate::track::{Standing, Trackers};

/// One request, as it came.
#[derive(Clone, Debug)]
struct Seen {
    call: String,
    body: Value,
    authorization: Option<String>,
}

/// What the server does with a call that has this in its path.
#[derive(Clone, Debug)]
enum Wrong {
    /// Answers with this status and text, so often.
    Answers(u16, &'static str, u32),
    /// Says nothing.
    Silent,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    wrong: Option<(&'static str, Wrong)>,
    /// Latest steps, as `runs/get` tells them.
    latest: Vec<(&'static str, u32)>,
    silenced: Vec<TcpStream>,
}

/// Runs until the test process ends.
struct Fake {
    state: Arc<Mutex<State>>,
    address: String,
}

impl Fake {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &shared);
            }
        });
        Self { state, address }
    }

    fn goes_wrong(&self, call: &'static str, wrong: Wrong) {
        self.state.lock().unwrap().wrong = Some((call, wrong));
    }

    fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    fn calls(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.call).collect()
    }

    /// All metrics that came, as (run, key, step, value).
    fn metrics(&self) -> Vec<(String, String, u64, f64)> {
        let of = |seen: Seen| {
            let run = seen.body["run_id"].as_str().unwrap_or_default().to_owned();
            let all = seen.body["metrics"].as_array().cloned().unwrap_or_default();
            all.into_iter().map(move |m| {
                let key = m["key"].as_str().unwrap().to_owned();
                (run.clone(), key, m["step"].as_u64().unwrap(), m["value"].as_f64().unwrap())
            })
        };
        self.seen().into_iter().flat_map(of).collect()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length, mut authorization) = (String::new(), 0, None);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = first.split(' ').nth(1).unwrap_or_default();
    let call = path.strip_prefix(API).unwrap_or(path).trim_start_matches('/').to_owned();
    let mut state = state.lock().unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    state.seen.push(Seen { call: call.clone(), body, authorization });
    let wrong = state.wrong.clone().filter(|(at, _)| call.contains(at));
    let (status, text) = match wrong {
        Some((_, Wrong::Silent)) => {
            state.silenced.push(stream);
            return;
        }
        Some((at, Wrong::Answers(status, text, times))) if times > 0 => {
            state.wrong = Some((at, Wrong::Answers(status, text, times - 1)));
            (status, text.to_owned())
        }
        _ => sound(&call, &state),
    };
    let length = text.len();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // Whoever asked may be gone.
    let _ = stream.write_all((head + &text).as_bytes());
}

/// As MLflow answers.
fn sound(call: &str, state: &State) -> (u16, String) {
    let created = state.seen.iter().filter(|seen| seen.call == "runs/create").count();
    match call.split('?').next().unwrap_or_default() {
        "experiments/get-by-name" => {
            (404, json!({ "error_code": NOT_THERE, "message": "none" }).to_string())
        }
        "experiments/create" => (200, json!({ "experiment_id": "7" }).to_string()),
        "runs/create" => {
            (200, json!({ "run": { "info": { "run_id": format!("run-{created}") } } }).to_string())
        }
        "runs/get" => {
            let metrics: Vec<Value> = state
                .latest
                .iter()
                .map(|(key, step)| json!({ "key": key, "step": step }))
                .collect();
            let info = json!({ "lifecycle_stage": "active" });
            (200, json!({ "run": { "info": info, "data": { "metrics": metrics } } }).to_string())
        }
        _ => (200, "{}".to_owned()),
    }
}

fn settings(fake: &Fake) -> Settings {
    let mut settings = Settings::default();
    settings.track.mlflow = fake.address.clone();
    settings.track.request_timeout_ms = 200;
    settings.track.finish_timeout_ms = 30_000;
    settings
}

/// A run directory with two committed steps.
fn run_dir(path: &Path) -> RunDir {
    std::fs::write(path.join("config.toml"), "").unwrap();
    let run_dir = RunDir::open(path).unwrap();
    let mut log = MetricsLog::create(&run_dir.metrics()).unwrap();
    for step in 1..=2 {
        log.step(&step_record(step), Duration::from_secs(u64::from(step))).unwrap();
    }
    run_dir
}

fn step_record(step: u32) -> proto::StepRecord {
    let values = [("loss".to_owned(), f64::from(step) / 4.0)].into();
    proto::StepRecord { step, values, ..proto::StepRecord::default() }
}

fn record(step: u32) -> Record {
    Record::of_step(&step_record(step), 9_000)
}

fn history(run_dir: &RunDir, step: u32) -> History {
    let before = EvalResult { solo_accuracy: Some(0.5), ..EvalResult::default() };
    let before = Some(&before);
    History::new(run_dir, 1_000, &Standing { run: 1, step, wall: Duration::ZERO, before })
}

fn sink(fake: &Fake, run_dir: &RunDir) -> MlflowSink {
    let kept = Kept::open(&run_dir.track(), 1, || 1_000).unwrap();
    let token = |name: &str| (name == "MLFLOW_TRACKING_TOKEN").then(|| "secret".to_owned());
    MlflowSink::open(&settings(fake), "mine".to_owned(), kept, token).unwrap()
}

#[test]
fn a_run_is_made_described_and_ended() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start());
    let run_dir = run_dir(dir.path());
    let mut sink = sink(&fake, &run_dir);
    sink.begin(&history(&run_dir, 0)).unwrap();
    sink.put(&[record(1)]).unwrap();
    sink.end(Status::Stopped).unwrap();
    let seen = fake.seen();
    assert!(seen.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer secret")));
    assert_eq!(seen[0].call, "experiments/get-by-name?experiment_name=tandem");
    assert_eq!(
        (seen[1].call.as_str(), &seen[1].body["name"]),
        ("experiments/create", &json!("tandem"))
    );
    assert_eq!(seen[2].body["experiment_id"], "7");
    assert_eq!(
        (&seen[2].body["run_name"], &seen[2].body["start_time"]),
        (&json!("mine"), &json!(1_000))
    );
    let parameters: Vec<&Vec<Value>> =
        seen.iter().filter_map(|seen| seen.body["params"].as_array()).collect();
    assert!(parameters.iter().all(|part| part.len() <= PARAMETERS_MAX));
    assert_eq!(
        parameters.iter().map(|part| part.len()).sum::<usize>(),
        leaves(&Settings::default()).len()
    );
    let steps = json!({ "key": "train.steps", "value": "80" });
    assert!(parameters.iter().any(|part| part.contains(&steps)));
    let loss = ("run-1".to_owned(), "train/loss".to_owned(), 1, 0.25);
    assert!(fake.metrics().contains(&loss), "{:?}", fake.metrics());
    let last = seen.last().unwrap();
    assert_eq!((last.call.as_str(), &last.body["status"]), ("runs/update", &json!("KILLED")));
    let kept = std::fs::read_to_string(run_dir.track()).unwrap();
    assert!(kept.contains("run-1") && !kept.contains("secret"), "{kept}");
}

#[test]
fn a_run_that_is_gone_on_with_gets_only_what_it_lacks() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start());
    let run_dir = run_dir(dir.path());
    sink(&fake, &run_dir).begin(&history(&run_dir, 0)).unwrap();
    let mut state = fake.state.lock().unwrap();
    state.latest = vec![("train/loss", 1), ("eval/solo_accuracy", 0)];
    state.seen.clear();
    drop(state);
    sink(&fake, &run_dir).begin(&history(&run_dir, 2)).unwrap();
    assert!(fake.calls()[0].starts_with("runs/get?run_id=run-1"), "{:?}", fake.calls());
    assert!(!fake.calls().contains(&"runs/create".to_owned()));
    let loss: Vec<_> = fake.metrics().into_iter().filter(|m| m.1 == "train/loss").collect();
    assert_eq!(loss, [("run-1".to_owned(), "train/loss".to_owned(), 2, 0.5)]);
    assert!(fake.metrics().iter().all(|metric| metric.1 != "eval/solo_accuracy"));
}

#[test]
fn a_run_with_points_of_undone_steps_is_made_anew_without_them() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start());
    let run_dir = run_dir(dir.path());
    let mut sink = sink(&fake, &run_dir);
    sink.begin(&history(&run_dir, 2)).unwrap();
    sink.undone(2, &history(&run_dir, 2)).unwrap();
    assert!(!fake.calls().contains(&"runs/delete".to_owned()), "nothing of it was sent");
    sink.put(&[record(3)]).unwrap();
    // The first try breaks off in the middle.
    fake.goes_wrong("log-batch", Wrong::Answers(503, "busy", 1));
    let history = history(&run_dir, 1);
    assert!(matches!(sink.undone(1, &history), Err(SinkError::Passing(_))));
    sink.undone(1, &history).unwrap();
    sink.put(&[record(2)]).unwrap();
    let deleted: Vec<Value> = fake
        .seen()
        .into_iter()
        .filter(|seen| seen.call == "runs/delete")
        .map(|seen| seen.body["run_id"].clone())
        .collect();
    assert_eq!(deleted, ["run-1"]);
    let mut steps: Vec<u64> = fake
        .metrics()
        .into_iter()
        .filter(|metric| metric.0 == "run-2" && metric.1 == "train/loss")
        .map(|metric| metric.2)
        .collect();
    steps.dedup();
    assert_eq!(steps, [1, 2], "{:?}", fake.metrics());
}

#[test]
fn the_servers_word_says_whether_another_try_may_do_better() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start());
    let run_dir = run_dir(dir.path());
    let begin = |wrong| {
        fake.goes_wrong("experiments", wrong);
        sink(&fake, &run_dir).begin(&history(&run_dir, 0)).unwrap_err()
    };
    for status in [500, 502, 429] {
        let error = begin(Wrong::Answers(status, "{}", 1));
        assert!(matches!(error, SinkError::Passing(_)), "{status}: {error}");
    }
    assert!(matches!(begin(Wrong::Silent), SinkError::Passing(_)));
    let denied = r#"{"error_code":"PERMISSION_DENIED","message":"not you"}"#;
    let error = begin(Wrong::Answers(403, denied, 1));
    assert!(matches!(error, SinkError::Lasting(_)));
    assert!(error.to_string().ends_with("answered 403 PERMISSION_DENIED not you"), "{error}");
    for text in ["<html>", "{}"] {
        let error = begin(Wrong::Answers(200, text, 1));
        assert!(matches!(error, SinkError::Lasting(_)), "{error}");
        assert!(error.to_string().ends_with("is it an MLflow server?"), "{error}");
    }
}

#[tokio::test]
async fn a_run_goes_on_and_ends_whatever_its_server_does() {
    for wrong in
        [Wrong::Answers(500, "", u32::MAX), Wrong::Silent, Wrong::Answers(200, "x", u32::MAX)]
    {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start());
        let run_dir = run_dir(dir.path());
        fake.goes_wrong("", wrong);
        let standing = Standing { run: 1, step: 0, wall: Duration::ZERO, before: None };
        let mut settings = settings(&fake);
        settings.track.queue_records = 2;
        let trackers = Trackers::open(&settings, &run_dir, &standing).unwrap();
        for step in 1..=50 {
            trackers.step(&step_record(step), Duration::from_secs(u64::from(step)));
        }
        trackers.undone(3);
        trackers.close(Status::Done);
        // Two tries of 0.2 s fit into it.
        trackers.finish(&settings).await;
        assert!(trackers.are_finished(), "a thread is left");
    }
}
