//! The state behind a lock, with the clock, the weights and the channels that announce changes.
//! Decisions are the state's; calls and their wire forms are `service`'s.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{Directive, StepRecord, WeightFiles};
use tokio::sync::watch;
use tokio::time::Instant;
use types::{PolicyVersion, WeightManifest};

use crate::journal::{Journal, Ticket};
use crate::metrics;
use crate::metrics_log::{LogError, MetricsLog};
use crate::state::{RunState, StateError};
use crate::weight_store::{CheckedWeights, WeightStore, WeightStoreError};

/// Where a run's history goes, and how long it is already.
#[derive(Debug, Default)]
pub struct Records {
    pub log: Option<MetricsLog>,
    /// None: the run cannot be resumed.
    pub journal: Option<Journal>,
    pub earlier: Duration,
    /// Where versions lie for those on this machine.
    pub weight_files: Option<WeightFiles>,
}

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
    journal: Option<Journal>,
    weight_files: Option<WeightFiles>,
    /// Of the run before this process.
    earlier: Duration,
    directives: watch::Sender<Directive>,
    /// Counts changes, so that whoever waits for one misses none.
    revision: watch::Sender<u64>,
}

impl Hub {
    #[must_use]
    pub fn new(state: RunState, weights_kept: u32, records: Records) -> Self {
        let (directives, _) = watch::channel(state.directive());
        let (revision, _) = watch::channel(0);
        Self(Arc::new(Inner {
            started: Instant::now(),
            state: Mutex::new(state),
            weights: Mutex::new(WeightStore::new(weights_kept)),
            log: Mutex::new(records.log),
            journal: records.journal,
            weight_files: records.weight_files,
            earlier: records.earlier,
            directives,
            revision,
        }))
    }

    /// The clock of the run.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.earlier + self.0.started.elapsed()
    }

    /// Reads, or changes something that nobody waits for.
    pub fn with<T>(&self, body: impl FnOnce(&mut RunState) -> T) -> T {
        let mut state = lock(&self.0.state);
        let result = body(&mut state);
        self.note(&mut state);
        result
    }

    /// The same; whoever is answered waits for the ticket before.
    pub fn with_ticket<T>(&self, body: impl FnOnce(&mut RunState) -> T) -> (T, Option<Ticket>) {
        let mut state = lock(&self.0.state);
        let result = body(&mut state);
        let ticket = self.note(&mut state);
        (result, ticket)
    }

    /// Under the lock, so that entries have the order of what they tell of. The last one's ticket
    /// speaks for those before it.
    fn note(&self, state: &mut RunState) -> Option<Ticket> {
        let entries = state.take_entries();
        let journal = self.0.journal.as_ref()?;
        let mut last = None;
        for entry in &entries {
            last = Some(journal.append(entry));
        }
        last
    }

    /// Changes the state and tells everyone who waits.
    pub fn change<T>(&self, body: impl FnOnce(&mut RunState) -> T) -> T {
        self.change_with_ticket(body).0
    }

    /// The same; whoever is answered waits for the ticket before.
    pub fn change_with_ticket<T>(
        &self,
        body: impl FnOnce(&mut RunState) -> T,
    ) -> (T, Option<Ticket>) {
        let mut state = lock(&self.0.state);
        let result = body(&mut state);
        let ticket = self.note(&mut state);
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
        (result, ticket)
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
    pub fn publish(
        &self,
        manifest: WeightManifest,
        bytes: Vec<u8>,
    ) -> Result<Option<Ticket>, PublishError> {
        let version = manifest.version;
        self.with(|state| state.may_publish(version))?;
        let stored = CheckedWeights::new(manifest, bytes).and_then(|checked| self.store(checked));
        let outcome = if stored.is_ok() { "stored" } else { "refused" };
        metrics::PUBLICATIONS.increment(1, &[("outcome", outcome)]);
        if !stored? {
            return Ok(None);
        }
        let (published, ticket) = self.change_with_ticket(|state| {
            if state.publish(version)? > 0 {
                let mut log = lock(&self.0.log);
                log.as_mut().map_or(Ok(()), |log| log.cut_after(version.step))?;
            }
            Ok(())
        });
        published.map(|()| ticket)
    }

    fn store(&self, checked: CheckedWeights) -> Result<bool, WeightStoreError> {
        let (stored, kept) = {
            let mut weights = lock(&self.0.weights);
            let stored = weights.insert(checked)?;
            metrics::WEIGHTS.set(weights.bytes() as f64, &[]);
            (stored, weights.manifests())
        };
        self.keep_files(&kept);
        Ok(stored)
    }

    /// Files of other versions go.
    pub fn keep_files(&self, kept: &[WeightManifest]) {
        let Some(files) = &self.0.weight_files else { return };
        if let Err(error) = files.retain(kept) {
            let dir = files.dir().display();
            tracing::warn!(%dir, %error, "files of old weights are left");
        }
    }

    /// Where versions lie for those on this machine.
    #[must_use]
    pub fn weight_files(&self) -> Option<WeightFiles> {
        self.0.weight_files.clone()
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
    pub fn commit(&self, record: &StepRecord) -> Result<Option<Ticket>, StateError> {
        let now = self.now();
        let (committed, ticket) = self.change_with_ticket(|state| {
            if !state.is_new(record)? {
                return Ok(());
            }
            let mut log = lock(&self.0.log);
            if let Some(Err(error)) = log.as_mut().map(|log| log.step(record, now)) {
                let (step, fault) = (record.step, error.to_string());
                state.fail(fault.clone());
                return Err(StateError::Unwritten { step, fault });
            }
            state.commit(record, now).map(drop)
        });
        committed.map(|()| ticket)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
