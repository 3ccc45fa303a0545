//! Checkpoints on their way into the run's store and back. They go there one at a time, beside the
//! steps: a store that fails costs a copy, never the run. What is whole on this machine is
//! `writer`'s to say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::{Shutdown, TaskGroup, waiting};
use settings::Settings;
use store::{Shelf, Store, StoreError, run_name};
use telemetry::Health;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use super::CheckpointStore;
use crate::inbox::IDLE_BEAT;
use crate::metrics;

/// Of `shutdown.grace_seconds`, what an upload may take before it is left undone.
const STOP_SHARE: f64 = 0.75;

/// What lies in the store under each step, and whether it is whole; none: nobody has looked.
type Known = Arc<Mutex<Option<BTreeMap<u32, bool>>>>;

/// What the store is to have. Only the newest counts: while one is under way, others may be passed
/// over.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// Counts checkpoints, since steps may come again.
    ticket: u64,
    checkpoint: Option<(String, u32)>,
    committed: u32,
}

impl Wish {
    /// A checkpoint of a run became whole on this machine.
    pub(super) fn add(&mut self, run: &str, step: u32) {
        self.ticket += 1;
        self.checkpoint = Some((run.to_owned(), step));
    }
}

/// The training thread's side.
#[derive(Debug)]
pub struct Remote {
    store: Store,
    settings: settings::Checkpoint,
    wishes: watch::Sender<Wish>,
    /// Up to which ticket wishes were met or given up.
    through: watch::Receiver<u64>,
    known: Known,
    runtime: Handle,
    shutdown: Shutdown,
    health: Health,
}

impl Remote {
    /// Starts the task that uploads, which ends with what is returned here. Must be called inside a
    /// tokio runtime.
    #[must_use]
    pub fn start(
        store: Store,
        local: &CheckpointStore,
        settings: &Settings,
        health: Health,
        tasks: &TaskGroup,
    ) -> Self {
        let (wishes, wished) = watch::channel(Wish::default());
        let (through, told) = watch::channel(0);
        let known = Known::default();
        let uploader = Uploader {
            store: store.clone(),
            local: local.clone(),
            wished,
            through,
            known: Arc::clone(&known),
            shutdown: tasks.shutdown().clone(),
            stop_limit: Duration::from_secs_f64(settings.shutdown.grace_seconds * STOP_SHARE),
        };
        tasks.spawn("uploads", uploader.run());
        Self {
            store,
            settings: settings.checkpoint.clone(),
            wishes,
            through: told,
            known,
            runtime: Handle::current(),
            shutdown: tasks.shutdown().clone(),
            health,
        }
    }

    pub(super) fn wishes(&self) -> watch::Sender<Wish> {
        self.wishes.clone()
    }

    pub(super) fn committed(&self, step: u32) {
        self.wishes.send_modify(|wish| wish.committed = step);
    }

    /// Waits until the newest checkpoint is stored or given up, no longer than it may take to write
    /// one.
    pub(super) fn settle(&self) {
        let (mut through, ticket) = (self.through.clone(), self.wishes.borrow().ticket);
        let limit = Duration::from_millis(u64::from(self.settings.write_timeout_ms));
        let outcome = self.wait("the checkpoint to be stored", async move {
            let arrived = through.wait_for(|through| *through >= ticket);
            let _ = tokio::time::timeout(limit, arrived).await;
            let arrived = *through.borrow() >= ticket;
            arrived.then_some(()).context("it takes longer than checkpoint.write_timeout_ms")
        });
        if let Err(error) = outcome {
            warn!(error = format!("{error:#}"), "the last checkpoint may not be in the store");
        }
    }

    /// Steps of the run's whole checkpoints in the store.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub(super) fn steps(&self, run: u64) -> anyhow::Result<Vec<u32>> {
        let shelf = self.shelf(run);
        let found = self.wait("the list of stored checkpoints", async { Ok(shelf.steps().await?) });
        Ok(found.context(NOT_KNOWN)?.into_iter().collect())
    }

    /// Fetches a checkpoint into a directory, which is made.
    ///
    /// # Errors
    /// None, a damaged one, another run's, no room, no answer.
    pub(super) fn fetch(&self, run: u64, step: u32, to: &Path) -> anyhow::Result<()> {
        let (shelf, started) = (self.shelf(run), Instant::now());
        let fetched = async { Ok(shelf.download(step, to, &self.settings).await?) };
        self.wait("a stored checkpoint", fetched)?;
        let seconds = started.elapsed().as_secs_f64();
        info!(step, place = self.store.place(), seconds, "fetched a checkpoint");
        Ok(())
    }

    /// What is later was never done: nobody may go on from it.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub(super) fn discard_after(&self, step: u32, run: u64) -> anyhow::Result<()> {
        self.wishes.send_modify(|wish| {
            wish.checkpoint = wish.checkpoint.take().filter(|(_, of)| *of <= step);
            wish.committed = step;
        });
        let (shelf, known) = (self.shelf(run), Arc::clone(&self.known));
        self.wait("later checkpoints to go from the store", async move {
            let mut known = known.lock().await;
            let there = match known.take() {
                Some(there) => there,
                None => shelf.traces().await?,
            };
            let later: Vec<u32> = there.range(step + 1..).map(|(of, _)| *of).collect();
            shelf.delete(&later).await?;
            *known = Some(there.into_iter().filter(|(of, _)| *of <= step).collect());
            Ok(())
        })
        .context(NOT_KNOWN)
    }

    fn shelf(&self, run: u64) -> Shelf {
        Shelf::new(self.store.clone(), run_name(run))
    }

    /// Each request has a deadline and bounded repeats, so that every look is a beat.
    fn wait<T>(
        &self,
        what: &str,
        body: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let _waits = waiting(what, None);
        let stop = self.shutdown.wait();
        self.runtime.block_on(async {
            let mut beats = tokio::time::interval(IDLE_BEAT);
            tokio::pin!(body, stop);
            loop {
                tokio::select! {
                    outcome = &mut body => return outcome,
                    () = &mut stop => return Err(Stopping.into()),
                    _ = beats.tick() => self.health.beat(),
                }
            }
        })
    }
}

/// A stop came while the store was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process is stopping")]
pub struct Stopping;

const NOT_KNOWN: &str = "it is not known which checkpoints of this run its store has";

/// Whether another copy may be good where this one failed so.
pub(super) fn is_of_one_copy(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<StoreError>() {
        Some(error) => {
            matches!(error, StoreError::Damaged { .. } | StoreError::Missing { .. })
        }
        None => true,
    }
}

/// The task.
struct Uploader {
    store: Store,
    local: CheckpointStore,
    wished: watch::Receiver<Wish>,
    through: watch::Sender<u64>,
    known: Known,
    shutdown: Shutdown,
    stop_limit: Duration,
}

impl Uploader {
    /// Until nobody wishes anything any more, or the stop has lasted too long.
    ///
    /// # Errors
    /// None: what fails is told and counted.
    async fn run(mut self) -> anyhow::Result<()> {
        let (stop, limit) = (self.shutdown.wait(), self.stop_limit);
        let too_long = async {
            stop.await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            () = self.follow() => {}
            () = too_long => {
                let wish = self.wished.borrow();
                if *self.through.borrow() < wish.ticket && let Some((_, step)) = wish.checkpoint {
                    count("failed");
                    warn!(step, "the process stops before the checkpoint is in the store");
                }
            }
        }
        Ok(())
    }

    async fn follow(&mut self) {
        let known = Arc::clone(&self.known);
        while self.wished.changed().await.is_ok() {
            // Whoever discards what is undone waits for this, and this for them.
            let mut known = known.lock().await;
            let wish = self.wished.borrow_and_update().clone();
            let Some((run, step)) = wish.checkpoint else { continue };
            let shelf = Shelf::new(self.store.clone(), run);
            if *self.through.borrow() < wish.ticket {
                let stored = self.upload(&shelf, step).await;
                if let Some(known) = known.as_mut() {
                    known.insert(step, stored);
                }
                self.through.send_replace(wish.ticket);
            }
            if let Err(error) = self.prune(&shelf, wish.committed, &mut known).await {
                warn!(%error, "old checkpoints stay in the store");
                *known = None;
            }
        }
    }

    /// Whether it is stored.
    async fn upload(&self, shelf: &Shelf, step: u32) -> bool {
        let (dir, started): (PathBuf, _) = (self.local.path(step), Instant::now());
        match shelf.upload(&dir).await {
            Ok(bytes) => {
                let seconds = started.elapsed().as_secs_f64();
                metrics::UPLOAD_SECONDS.record(seconds, &[]);
                count("stored");
                info!(step, bytes, seconds, place = self.store.place(), "stored a checkpoint");
                true
            }
            Err(error) => {
                count("failed");
                warn!(step, %error, "a checkpoint is on this machine only");
                false
            }
        }
    }

    async fn prune(
        &self,
        shelf: &Shelf,
        committed: u32,
        known: &mut Option<BTreeMap<u32, bool>>,
    ) -> Result<(), StoreError> {
        let there = match known {
            Some(there) => there,
            None => known.insert(shelf.traces().await?),
        };
        let old = superfluous(there, committed, self.local.keep);
        shelf.delete(&old).await?;
        there.retain(|step, _| !old.contains(step));
        Ok(())
    }
}

fn count(outcome: &'static str) {
    metrics::UPLOADS.increment(1, &[("outcome", outcome)]);
}

/// Steps to delete: whole ones beyond those to keep, of what is committed, and what is left of
/// others before the newest.
fn superfluous(there: &BTreeMap<u32, bool>, committed: u32, keep: usize) -> Vec<u32> {
    let good = there.range(..=committed).rev().filter(|(_, whole)| **whole);
    let newest = good.clone().next().map_or(0, |(step, _)| *step);
    let old = good.skip(keep).map(|(step, _)| *step);
    let torn = there.range(..newest).filter(|(_, whole)| !**whole).map(|(step, _)| *step);
    old.chain(torn).collect()
}

#[cfg(test)]
mod tests;
