//! MLflow by its REST interface: a run of an experiment gets every number, and is gone on with by its
//! id. Points of MLflow cannot be taken back; where steps are undone, the run is made anew without
//! them and the old one is deleted.

use std::collections::HashMap;
use std::io;

use serde_json::{Value, json};
use settings::Settings;

use super::history::History;
use super::http::{Answer, HttpError, Refusal, Server};
use super::kept::Kept;
use super::now_ms;
use super::queue::Status;
use super::record::Record;
use super::worker::{Sink, SinkError};
use crate::resume::leaves;

/// Bounds of one request.
const METRICS_MAX: usize = 1_000;
const PARAMETERS_MAX: usize = 100;
/// Of a value, in every version of the server.
const VALUE_CHARS_MAX: usize = 500;

const API: &str = "/api/2.0/mlflow";
const NOT_THERE: &str = "RESOURCE_DOES_NOT_EXIST";
const EXISTS: &str = "RESOURCE_ALREADY_EXISTS";

pub(super) struct MlflowSink {
    server: Server,
    experiment: String,
    /// What the run is called.
    name: String,
    run_dir: String,
    parameters: Vec<(String, String)>,
    kept: Kept,
    /// The last step that the server's run has points of.
    sent_step: u32,
    /// The server's run lacks some of what was before.
    behind: bool,
}

impl MlflowSink {
    /// # Errors
    /// What the server's address does not allow.
    pub(super) fn open(
        settings: &Settings,
        name: String,
        kept: Kept,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        Ok(Self {
            server: Server::new(settings, variable)?,
            experiment: settings.track.experiment.clone(),
            name,
            run_dir: settings.run.dir.clone(),
            parameters: leaves(settings),
            kept,
            sent_step: 0,
            behind: false,
        })
    }

    /// The experiment's id; it is made where there is none.
    fn experiment(&self) -> Result<String, SinkError> {
        let by_name = || {
            let query = [("experiment_name", self.experiment.as_str())];
            self.server.get(&format!("{API}/experiments/get-by-name"), &query)
        };
        let found = match by_name()? {
            Err(Refusal { code, .. }) if code == NOT_THERE => {
                let body = json!({ "name": self.experiment });
                match self.post("experiments/create", &body)? {
                    // Another run was faster.
                    Err(Refusal { code, .. }) if code == EXISTS => by_name()?,
                    made => return self.text(made, "/experiment_id"),
                }
            }
            found => found,
        };
        self.text(found, "/experiment/experiment_id")
    }

    /// A run of the server for this one, with all that was so far.
    fn create(&mut self, history: &History) -> Result<(), SinkError> {
        let tags = [
            ("mlflow.source.name", "tandem".to_owned()),
            ("mlflow.source.type", "LOCAL".to_owned()),
            ("tandem.run_dir", self.run_dir.clone()),
            ("tandem.version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let tags: Vec<Value> =
            tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        let body = json!({
            "experiment_id": self.experiment()?,
            "run_name": self.name,
            "start_time": self.kept.began_ms(),
            "tags": tags,
        });
        let id = self.text(self.post("runs/create", &body)?, "/run/info/run_id")?;
        self.keep(Some(id))?;
        (self.sent_step, self.behind) = (0, true);
        self.describe()?;
        self.send(&history.records()?)?;
        self.behind = false;
        Ok(())
    }

    /// The server's run is this one's: what it lacks is sent. A run that is gone, or that has points
    /// of steps that are void, is made anew.
    fn go_on(&mut self, id: &str, history: &History) -> Result<(), SinkError> {
        let found = match self.server.get(&format!("{API}/runs/get"), &[("run_id", id)])? {
            Err(Refusal { code, .. }) if code == NOT_THERE => return self.create(history),
            found => found.map_err(Refusal::error)?,
        };
        if found.pointer("/run/info/lifecycle_stage") == Some(&json!("deleted")) {
            return self.create(history);
        }
        let latest = latest_steps(&found);
        if latest.values().any(|step| *step > history.step()) {
            return self.replace(id, history);
        }
        self.update(id, "RUNNING", None)?;
        self.describe()?;
        let mut lacking = history.records()?;
        for record in &mut lacking {
            record
                .points
                .retain(|(name, _)| latest.get(&key(name)).is_none_or(|step| *step < record.step));
        }
        self.sent_step = latest.values().copied().max().unwrap_or(0);
        self.send(&lacking)?;
        self.behind = false;
        Ok(())
    }

    fn replace(&mut self, id: &str, history: &History) -> Result<(), SinkError> {
        match self.post("runs/delete", &json!({ "run_id": id }))? {
            Err(Refusal { code, .. }) if code == NOT_THERE => {}
            done => drop(done.map_err(Refusal::error)?),
        }
        self.keep(None)?;
        self.create(history)
    }

    /// Every setting as a parameter; the same once more is no change.
    fn describe(&self) -> Result<(), SinkError> {
        let parameters: Vec<Value> = self
            .parameters
            .iter()
            .map(|(name, value)| {
                let value: String = value.chars().take(VALUE_CHARS_MAX).collect();
                json!({ "key": key(name), "value": value })
            })
            .collect();
        for part in parameters.chunks(PARAMETERS_MAX) {
            self.log(&json!({ "run_id": self.kept.mlflow_run(), "params": part }))?;
        }
        Ok(())
    }

    fn send(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let points = records.iter().flat_map(|record| {
            record.points.iter().map(|(name, value)| {
                let (timestamp, step) = (record.at_ms, record.step);
                json!({ "key": key(name), "value": value, "timestamp": timestamp, "step": step })
            })
        });
        let points: Vec<Value> = points.collect();
        for part in points.chunks(METRICS_MAX) {
            self.log(&json!({ "run_id": self.kept.mlflow_run(), "metrics": part }))?;
        }
        let last = records.iter().map(|record| record.step).max();
        self.sent_step = self.sent_step.max(last.unwrap_or(0));
        Ok(())
    }

    fn log(&self, body: &Value) -> Result<(), SinkError> {
        self.post("runs/log-batch", body)?.map(drop).map_err(Refusal::error)
    }

    fn update(&self, id: &str, status: &str, end_ms: Option<u64>) -> Result<(), SinkError> {
        let mut body = json!({ "run_id": id, "status": status });
        if let Some(end_ms) = end_ms {
            body["end_time"] = json!(end_ms);
        }
        self.post("runs/update", &body)?.map(drop).map_err(Refusal::error)
    }

    fn post(&self, call: &str, body: &Value) -> Result<Answer, SinkError> {
        self.server.post(&format!("{API}/{call}"), body)
    }

    /// A text of an answer, by its place.
    fn text(&self, answer: Answer, place: &str) -> Result<String, SinkError> {
        let answer = answer.map_err(Refusal::error)?;
        let text = answer.pointer(place).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| {
            let base = self.server.base();
            SinkError::Lasting(format!("{base} answered without {place}: is it an MLflow server?"))
        })
    }

    fn keep(&mut self, id: Option<String>) -> Result<(), SinkError> {
        let unwritten = |error: io::Error| SinkError::Passing(format!("track.json: {error}"));
        self.kept.set_mlflow_run(id).map_err(unwritten)
    }
}

impl Sink for MlflowSink {
    fn name(&self) -> &'static str {
        "mlflow"
    }

    fn begin(&mut self, history: &History) -> Result<(), SinkError> {
        match self.kept.mlflow_run().map(str::to_owned) {
            Some(id) => self.go_on(&id, history),
            None => self.create(history),
        }
    }

    fn put(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.send(records)
    }

    fn undone(&mut self, step: u32, history: &History) -> Result<(), SinkError> {
        match self.kept.mlflow_run().map(str::to_owned) {
            Some(_) if self.sent_step <= step && !self.behind => Ok(()),
            // Earlier tries came as far as this.
            Some(id) if self.sent_step <= step => self.go_on(&id, history),
            Some(id) => self.replace(&id, history),
            None => self.create(history),
        }
    }

    fn end(&mut self, status: Status) -> Result<(), SinkError> {
        let status = match status {
            Status::Done => "FINISHED",
            Status::Stopped => "KILLED",
            Status::Failed => "FAILED",
        };
        match self.kept.mlflow_run() {
            Some(id) => self.update(id, status, Some(now_ms())),
            None => Ok(()),
        }
    }
}

/// The last step of each metric of a run.
fn latest_steps(run: &Value) -> HashMap<String, u32> {
    let metrics = run.pointer("/run/data/metrics").and_then(Value::as_array);
    let step = |metric: &Value| {
        // Older servers write whole numbers as texts.
        let step = &metric["step"];
        let step = step.as_u64().or_else(|| step.as_str()?.parse().ok())?;
        Some((metric["key"].as_str()?.to_owned(), u32::try_from(step).ok()?))
    };
    metrics.into_iter().flatten().filter_map(step).collect()
}

/// A name as every server takes it.
fn key(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests;
