//! What a run's trackers were told, as TensorBoard's own reader and a server of MLflow have it after
//! steps were undone and the run was gone on with.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ::tests::{Killed, http_get, wait_until};
use proto::StepRecord;
use serde_json::{Value, json};
use settings::Settings;

use super::{Standing, Status, Trackers};
use crate::eval_plan::EvalResult;
use crate::metrics_log::MetricsLog;
use crate::run_dir::RunDir;

/// More than a busy machine needs.
const LIMIT: Duration = Duration::from_secs(120);
const EXPERIMENT: &str = "a test of trackers";
const RUN: u64 = 7;

/// By name: values by step.
type Scalars = BTreeMap<String, Vec<(u64, f64)>>;

/// A server of MLflow in a directory of its own.
struct Mlflow {
    address: String,
    _server: Killed,
    _dir: tempfile::TempDir,
}

impl Mlflow {
    fn start(python: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let store = format!("sqlite:///{}", dir.path().join("mlflow.db").display());
        let mut command = Command::new(python);
        command
            .args(["-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"])
            .args(["--port", &port.to_string(), "--backend-store-uri", &store])
            .current_dir(dir.path());
        let (address, server) = (format!("127.0.0.1:{port}"), Killed::start(&mut command));
        wait_until("MLflow", LIMIT, || {
            let there = TcpStream::connect(&address).is_ok();
            (there && http_get(&address, "/health").0 == 200).then_some(())
        });
        Self { address, _server: server, _dir: dir }
    }

    fn get(&self, path: &str) -> Value {
        let (status, text) = http_get(&self.address, &format!("/api/2.0/mlflow/{path}"));
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Every value of a metric of a run.
    fn history(&self, run: &str, name: &str) -> Vec<(u64, f64)> {
        let name = name.replace('/', "%2F");
        let path = format!("metrics/get-history?run_id={run}&metric_key={name}");
        let all = self.get(&path)["metrics"].as_array().cloned().unwrap_or_default();
        let point = |m: &Value| (m["step"].as_u64().unwrap(), m["value"].as_f64().unwrap());
        let mut points: Vec<(u64, f64)> = all.iter().map(point).collect();
        points.sort_by_key(|(step, _)| *step);
        points
    }
}

fn evaluation(solo: f64) -> EvalResult {
    let mut result = EvalResult { solo_accuracy: Some(solo), ..EvalResult::default() };
    result.tandem_accuracy.push("token:0.25", Some(solo / 2.0));
    result
}

/// Commits these steps with this loss, as the coordinator does.
fn commit(run_dir: &RunDir, trackers: &Trackers, steps: std::ops::RangeInclusive<u32>, loss: f64) {
    let mut log = MetricsLog::create(&run_dir.metrics()).unwrap();
    for step in steps {
        let values = [("loss".to_owned(), loss)].into();
        let record = StepRecord { step, values, strong_tokens: 9, ..StepRecord::default() };
        let wall = Duration::from_secs(u64::from(step));
        log.step(&record, wall).unwrap();
        trackers.step(&record, wall);
    }
}

fn cut(run_dir: &RunDir, step: u32) {
    MetricsLog::create(&run_dir.metrics()).unwrap().cut_after(step).unwrap();
}

fn id(run_dir: &RunDir) -> String {
    let kept: Value = serde_json::from_slice(&std::fs::read(run_dir.track()).unwrap()).unwrap();
    kept["mlflow_run"].as_str().unwrap_or_default().to_owned()
}

fn tensorboard(python: &Path, dir: &Path) -> Scalars {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/track/tests/scalars.py");
    let read = Command::new(python).arg(script).arg(dir).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).unwrap()
}

#[tokio::test]
async fn each_step_has_one_value_after_undone_ones_and_in_a_run_that_is_gone_on_with() {
    let Some(python) = ::tests::python("what trackers are told") else { return };
    let (mlflow, dir) = (Mlflow::start(&python), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("config.toml"), "").unwrap();
    let run_dir = RunDir::open(dir.path()).unwrap();
    let mut settings = Settings::default();
    settings.run.dir = dir.path().to_string_lossy().into_owned();
    settings.track.tensorboard = "auto".to_owned();
    settings.track.mlflow = format!("http://{}", mlflow.address);
    settings.track.experiment = EXPERIMENT.to_owned();
    settings.track.finish_timeout_ms = LIMIT.as_millis() as u32;
    let before = evaluation(0.5);
    let open = |step, before| {
        let standing = Standing { run: RUN, step, wall: Duration::ZERO, before };
        Trackers::open(&settings, &run_dir, &standing).unwrap()
    };

    let trackers = open(0, None);
    trackers.evaluated(0, &before, Duration::ZERO);
    commit(&run_dir, &trackers, 1..=6, 0.125);
    trackers.close(Status::Stopped);
    trackers.finish(&settings).await;
    let first = id(&run_dir);
    assert_eq!(mlflow.history(&first, "train/loss").len(), 6);
    assert_eq!(mlflow.get(&format!("runs/get?run_id={first}"))["run"]["info"]["status"], "KILLED");

    // Another coordinator knows of four steps only. Later, two more are undone while it lives.
    cut(&run_dir, 4);
    let trackers = open(4, Some(&before));
    commit(&run_dir, &trackers, 5..=8, 0.25);
    trackers.evaluated(8, &evaluation(0.625), Duration::from_secs(8));
    wait_until("what is undone next", LIMIT, || {
        let id = id(&run_dir);
        // Between the old run and the new one there is none.
        let made_anew = !id.is_empty() && id != first;
        let sent = made_anew && mlflow.history(&id, "eval/solo_accuracy").len() == 2;
        sent.then_some(())
    });
    cut(&run_dir, 6);
    trackers.undone(6);
    commit(&run_dir, &trackers, 7..=9, 0.5);
    trackers.evaluated(9, &evaluation(0.75), Duration::from_secs(9));
    trackers.close(Status::Done);
    trackers.finish(&settings).await;

    let losses = [0.125, 0.125, 0.125, 0.125, 0.25, 0.25, 0.5, 0.5, 0.5];
    let losses: Vec<(u64, f64)> = (1..).zip(losses).collect();
    let solo = [(0, 0.5), (9, 0.75)].to_vec();
    let found = tensorboard(&python, &dir.path().join("tensorboard"));
    assert_eq!((&found["train/loss"], &found["eval/solo_accuracy"]), (&losses, &solo));
    assert_eq!(found["eval/tandem_accuracy/token:0.25"], [(0, 0.25), (9, 0.375)]);

    let last = id(&run_dir);
    assert_eq!(mlflow.history(&last, "train/loss"), losses);
    assert_eq!(mlflow.history(&last, "eval/solo_accuracy"), solo);
    let of = mlflow.get(&format!("runs/get?run_id={last}"));
    assert_eq!(of["run"]["info"]["status"], "FINISHED");
    let parameters = of["run"]["data"]["params"].as_array().unwrap();
    assert!(parameters.contains(&json!({ "key": "train.steps", "value": "80" })));
    let old = mlflow.get(&format!("runs/get?run_id={first}"));
    assert_eq!(old["run"]["info"]["lifecycle_stage"], "deleted");

    // Gone on with once more and nothing undone: the same run, and nothing in it twice.
    let trackers = open(9, Some(&before));
    trackers.close(Status::Done);
    trackers.finish(&settings).await;
    assert_eq!((id(&run_dir), mlflow.history(&last, "train/loss")), (last.clone(), losses.clone()));
    assert_eq!(tensorboard(&python, &dir.path().join("tensorboard"))["train/loss"], losses);
}
