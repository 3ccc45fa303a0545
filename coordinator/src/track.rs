//! Where a run's numbers go besides its own files: TensorBoard's event files, an MLflow server. What
//! happens in the run is put into bounded queues, and a thread for each tracker takes it on; nothing
//! here is waited for, and nothing that goes wrong here is the run's concern.

mod event_file;
mod history;
mod http;
mod kept;
mod mlflow;
mod queue;
mod record;
mod tensorboard;
#[cfg(test)]
mod tests;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use proto::StepRecord;
use runtime::{Shutdown, TaskGroup};
use settings::Settings;

use crate::eval_plan::EvalResult;
use crate::run_dir::RunDir;
use history::History;
use kept::Kept;
use mlflow::MlflowSink;
use queue::Queue;
pub(crate) use queue::Status;
use record::Record;
use tensorboard::TensorboardSink;
use worker::{Sink, Worker};

/// What a tracker has to know of the run that is there.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    /// The journal's number of the run.
    pub(crate) run: u64,
    /// Steps committed.
    pub(crate) step: u32,
    /// The run's time.
    pub(crate) wall: Duration,
    pub(crate) before: Option<&'a EvalResult>,
}

/// All trackers of a run; without any, everything is for nothing and costs nothing.
#[derive(Default)]
pub(crate) struct Trackers {
    queues: Vec<Arc<Queue>>,
    tasks: Option<TaskGroup>,
    began_ms: u64,
}

impl Trackers {
    /// Starts those that the settings name, each with what the run has done so far.
    ///
    /// # Errors
    /// A token that would travel in plaintext, certificates that cannot be read, or a run directory
    /// that cannot be written.
    pub(crate) fn open(
        settings: &Settings,
        run_dir: &RunDir,
        standing: &Standing,
    ) -> anyhow::Result<Self> {
        let tensorboard = settings.tensorboard_dir();
        if tensorboard.is_none() && settings.track.mlflow.is_empty() {
            return Ok(Self::default());
        }
        let kept = Kept::open(&run_dir.track(), standing.run, || now_ms() - millis(standing.wall));
        let kept = kept.context("cannot keep what the trackers have to remember")?;
        let began_ms = kept.began_ms();
        let history = History::new(run_dir, began_ms, standing);
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(dir) = tensorboard {
            sinks.push(Box::new(TensorboardSink::new(dir)));
        }
        if !settings.track.mlflow.is_empty() {
            let variable = |name: &str| std::env::var(name).ok();
            let name = run_name(run_dir.path());
            sinks.push(Box::new(MlflowSink::open(settings, name, kept, variable)?));
        }
        let tasks = TaskGroup::new(Shutdown::new());
        let mut queues = Vec::new();
        for sink in sinks {
            let queue = Arc::new(Queue::new(sink.name(), settings.track.queue_records as usize));
            let worker = Worker::new(sink, Arc::clone(&queue), history.clone());
            let name = format!("track-{}", queue.tracker());
            tasks.spawn_thread(name, move || {
                worker.run();
                Ok(())
            })?;
            queues.push(queue);
        }
        Ok(Self { queues, tasks: Some(tasks), began_ms })
    }

    /// A step was committed at that time of the run.
    pub(crate) fn step(&self, record: &StepRecord, wall: Duration) {
        self.push(|| Record::of_step(record, self.began_ms + millis(wall)));
    }

    /// An evaluation was made after that step.
    pub(crate) fn evaluated(&self, step: u32, result: &EvalResult, wall: Duration) {
        self.push(|| Record::of_evaluation(step, result, self.began_ms + millis(wall)));
    }

    /// What was after that step is void.
    pub(crate) fn undone(&self, step: u32) {
        self.queues.iter().for_each(|queue| queue.undone(step));
    }

    /// Nothing comes any more.
    pub(crate) fn close(&self, status: Status) {
        self.queues.iter().for_each(|queue| queue.close(status));
        if let Some(tasks) = &self.tasks {
            tasks.shutdown().trigger("the run is over");
        }
    }

    /// Gives the trackers, which are closed, their time for what is left.
    pub(crate) async fn finish(&self, settings: &Settings) {
        let limit = Duration::from_millis(u64::from(settings.track.finish_timeout_ms));
        let Some(tasks) = &self.tasks else { return };
        if let Err(late) = tasks.join(limit).await {
            tracing::warn!(%late, "what is left for a tracker is dropped (track.finish_timeout_ms)");
        }
    }

    #[cfg(test)]
    fn are_finished(&self) -> bool {
        self.tasks.as_ref().is_none_or(|tasks| tasks.running().is_empty())
    }

    fn push(&self, record: impl Fn() -> Record) {
        self.queues.iter().for_each(|queue| queue.push(record()));
    }
}

impl Drop for Trackers {
    /// A session that ends by an error leaves no thread that waits for more.
    fn drop(&mut self) {
        self.close(Status::Failed);
    }
}

/// What a run is called where there are others.
fn run_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Of the wall clock, since 1970.
fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
