//! The state behind a lock, with the clock, the weights and the channels that announce changes.
//! Decisions are the state's; calls and their wire forms are `service`'s.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::{Directive, StepRecord};
use tokio::sync::watch;
use types::{PolicyVersion, WeightManifest};

use crate::metrics;
use crate::metrics_log::{LogError, MetricsLog};
use crate::state::{RunState, StateError};
use crate::weight_store::{CheckedWeights, WeightStore, WeightStoreError};

/// Why a version was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Weights(#[from] WeightStoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Shared by the service and the session; clones are the same hub.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    state: Mutex<RunState>,
    weights: Mutex<WeightStore>,
    log: Mutex<Option<MetricsLog>>,
    directives: watch::Sender<Directive>,
    /// Counts changes, so that whoever waits for one misses none.
    revision: watch::Sender<u64>,
}

impl Hub {
    #[must_use]
    pub fn new(state: RunState, weights_kept: u32, log: Option<MetricsLog>) -> Self {
        let (directives, _) = watch::channel(state.directive());
        let (revision, _) = watch::channel(0);
        Self(Arc::new(Inner {
            started: Instant::now(),
            state: Mutex::new(state),
            weights: Mutex::new(WeightStore::new(weights_kept)),
            log: Mutex::new(log),
            directives,
            revision,
        }))
    }

    /// The clock of the run.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Reads, or changes something that nobody waits for.
    pub fn with<T>(&self, body: impl FnOnce(&mut RunState) -> T) -> T {
        body(&mut lock(&self.0.state))
    }

    /// Changes the state and tells everyone who waits.
    pub fn change<T>(&self, body: impl FnOnce(&mut RunState) -> T) -> T {
        let mut state = lock(&self.0.state);
        let result = body(&mut state);
        metrics::set_from(&state);
        // Under the lock: whoever changed the state before has announced it before, too.
        let directive = state.directive();
        self.0.directives.send_if_modified(|current| {
            let differs = *current != directive;
            *current = directive;
            differs
        });
        drop(state);
        self.0.revision.send_modify(|revision| *revision += 1);
        result
    }

    #[must_use]
    pub fn directives(&self) -> watch::Receiver<Directive> {
        self.0.directives.subscribe()
    }

    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Checks and stores a version, then announces it. It reads every byte, so it is called off
    /// the async workers; nothing is locked meanwhile. Where it undoes steps, their lines are gone
    /// from `metrics.jsonl` before anyone knows of it.
    ///
    /// # Errors
    /// Weights that are not what they should be or not what comes next; the current version stays.
    pub fn publish(&self, manifest: WeightManifest, bytes: Vec<u8>) -> Result<(), PublishError> {
        let version = manifest.version;
        self.with(|state| state.may_publish(version))?;
        let stored = CheckedWeights::new(manifest, bytes).and_then(|checked| {
            let mut weights = lock(&self.0.weights);
            let stored = weights.insert(checked);
            metrics::WEIGHTS.set(weights.bytes() as f64, &[]);
            stored
        });
        let outcome = if stored.is_ok() { "stored" } else { "refused" };
        metrics::PUBLICATIONS.increment(1, &[("outcome", outcome)]);
        if stored? {
            self.change(|state| {
                if state.publish(version)? > 0 {
                    let mut log = lock(&self.0.log);
                    log.as_mut().map_or(Ok(()), |log| log.cut_after(version.step))?;
                }
                Ok::<(), PublishError>(())
            })?;
        }
        Ok(())
    }

    /// # Errors
    /// A version that is not kept.
    pub fn weights(&self, version: PolicyVersion) -> Result<CheckedWeights, WeightStoreError> {
        lock(&self.0.weights).get(version)
    }

    /// Commits a step; its line is in `metrics.jsonl` before anyone knows of it.
    ///
    /// # Errors
    /// A step that the state refuses, or whose line cannot be written: the run fails then.
    pub fn commit(&self, record: &StepRecord) -> Result<(), StateError> {
        let now = self.now();
        self.change(|state| {
            if !state.is_new(record)? {
                return Ok(());
            }
            let mut log = lock(&self.0.log);
            if let Some(Err(error)) = log.as_mut().map(|log| log.step(record, now)) {
                let (step, fault) = (record.step, error.to_string());
                state.fail(fault.clone());
                return Err(StateError::Unwritten { step, fault });
            }
            state.commit(record).map(drop)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
