//! The checkpoints of a run that goes on: a thread of their own writes them, one at a time. What is
//! in them and what a commit says of them is the training loop's.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use runtime::TaskGroup;
use settings::{Checkpoint, Settings};
use telemetry::Health;
use tokio::sync::watch;
use tracing::{info, warn};

use super::remote::{Remote, Wish, is_of_one_copy};
use super::{Checkpoint as Loaded, CheckpointStore, Contents, UNFINISHED, load_checkpoint};
use crate::inbox::IDLE_BEAT;
use crate::metrics;

/// The step whose checkpoint is whole, or why it is not.
type Outcome = Result<u32, String>;

/// Where a checkpoint lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Stored,
    Here,
}

/// The training thread's side.
#[derive(Debug)]
pub struct Checkpoints {
    store: CheckpointStore,
    remote: Option<Remote>,
    orders: SyncSender<Contents>,
    outcomes: Receiver<Outcome>,
    /// Being written.
    under_way: Option<u32>,
    /// The newest that is whole and that no commit has named.
    news: Option<u32>,
    committed: Arc<AtomicU32>,
    deadline: Duration,
    health: Health,
}

impl Checkpoints {
    /// Starts the thread, which ends with what is returned here.
    ///
    /// # Errors
    /// There are no more threads.
    pub fn start(
        (store, remote): (CheckpointStore, Option<Remote>),
        settings: &Settings,
        health: Health,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        // At most one order and one outcome are under way.
        let (orders, taken) = sync_channel(1);
        let (told, outcomes) = sync_channel(1);
        let committed = Arc::new(AtomicU32::new(0));
        let writer = Writer {
            store: store.clone(),
            wishes: remote.as_ref().map(Remote::wishes),
            committed: Arc::clone(&committed),
            settings: settings.checkpoint.clone(),
            free_bytes: runtime::free_bytes,
        };
        tasks.spawn_thread("checkpoints", move || writer.run(&taken, &told))?;
        let deadline = Duration::from_millis(u64::from(settings.checkpoint.write_timeout_ms));
        Ok(Self {
            store,
            remote,
            orders,
            outcomes,
            under_way: None,
            news: None,
            committed,
            deadline,
            health,
        })
    }

    /// What is there. Whole ones only, so that one that is being written is not among them.
    #[must_use]
    pub fn store(&self) -> &CheckpointStore {
        &self.store
    }

    /// Has a checkpoint written, as soon as the one before it is whole.
    ///
    /// # Errors
    /// That one could not be written.
    pub fn begin(&mut self, contents: Contents) -> anyhow::Result<()> {
        self.settle()?;
        let step = contents.state.step;
        self.orders.send(contents).ok().context(GONE)?;
        self.under_way = Some(step);
        Ok(())
    }

    /// Waits until none is being written. Every look is a beat: the wait has its own deadline.
    ///
    /// # Errors
    /// It could not be written, or not in time.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let Some(step) = self.under_way else { return Ok(()) };
        let until = Instant::now() + self.deadline;
        loop {
            self.health.beat();
            let left = until.saturating_duration_since(Instant::now());
            match self.outcomes.recv_timeout(left.min(IDLE_BEAT)) {
                Ok(outcome) => return self.take(outcome),
                Err(RecvTimeoutError::Disconnected) => bail!(GONE),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => bail!(
                    "checkpoint {} is not written after {} ms: see whether the disk still works, or \
                     raise checkpoint.write_timeout_ms",
                    self.store.path(step).display(),
                    self.deadline.as_millis()
                ),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The newest that has become whole since the last time: its directory's name.
    ///
    /// # Errors
    /// The one that was being written could not be.
    pub fn news(&mut self) -> anyhow::Result<Option<String>> {
        match self.outcomes.try_recv() {
            Ok(outcome) => self.take(outcome)?,
            Err(TryRecvError::Disconnected) => bail!(GONE),
            Err(TryRecvError::Empty) => {}
        }
        Ok(self.news.take().map(CheckpointStore::name))
    }

    /// From here on older checkpoints than that of this step are not needed beyond those to keep.
    ///
    /// # Errors
    /// One that cannot be deleted.
    pub fn committed(&mut self, step: u32) -> anyhow::Result<()> {
        self.committed.store(step, Ordering::SeqCst);
        if let Some(remote) = &self.remote {
            remote.committed(step);
        }
        // Otherwise the writer deletes them when it is done.
        if self.under_way.is_none() { self.store.prune(step) } else { Ok(()) }
    }

    /// The run goes on from this step: what is later was never done.
    ///
    /// # Errors
    /// One of another run, or one that cannot be deleted.
    pub fn discard_after(&mut self, step: u32, run: u64) -> anyhow::Result<()> {
        self.settle()?;
        self.committed.store(step, Ordering::SeqCst);
        self.news = self.news.filter(|of| *of <= step);
        if let Some(remote) = &self.remote {
            remote.discard_after(step, run)?;
        }
        self.store.discard_after(step, run)
    }

    /// Waits until the newest is in the run's store too, if there is one and it can be reached.
    pub fn settle_stored(&self) {
        if let Some(remote) = &self.remote {
            remote.settle();
        }
    }

    /// Copies of the run's checkpoints up to this step, the newest first.
    ///
    /// # Errors
    /// A directory that cannot be read, or a store that must be asked and does not answer.
    pub(crate) fn copies(&self, run: u64, until: u32) -> anyhow::Result<Vec<(u32, Place)>> {
        let here = self.store.steps()?;
        let stored = self.remote.as_ref().map_or(Ok(Vec::new()), |remote| remote.steps(run));
        let stored = match stored {
            Err(error) if here.contains(&until) && !error.is::<super::Stopping>() => {
                warn!(error = format!("{error:#}"), "the store is left out");
                Vec::new()
            }
            stored => stored?,
        };
        let here = here.into_iter().map(|step| (step, Place::Here));
        let stored = stored.into_iter().map(|step| (step, Place::Stored));
        let mut all: Vec<_> = here.chain(stored).filter(|(step, _)| *step <= until).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        Ok(all)
    }

    /// For the rank that writes: a copy from the store comes to stay.
    ///
    /// # Errors
    /// One that is damaged, of another run, or cannot be fetched.
    pub(crate) fn load(&self, run: u64, (step, place): (u32, Place)) -> anyhow::Result<Loaded> {
        if let (Place::Stored, Some(remote)) = (place, &self.remote) {
            let name = CheckpointStore::name(step);
            remote.fetch(run, step, &self.store.dir.join(format!("{UNFINISHED}{name}")))?;
            self.store.put(&name)?;
        }
        load_checkpoint(&self.store.path(step))
    }

    /// For the other ranks, which read what the one that writes has named: from the directory that
    /// they share with it, or from the store.
    ///
    /// # Errors
    /// One that is damaged, of another run, or cannot be fetched.
    pub(crate) fn load_beside(&self, run: u64, step: u32, rank: usize) -> anyhow::Result<Loaded> {
        let Some(remote) = self.remote.as_ref().filter(|_| !self.store.has(step)) else {
            return load_checkpoint(&self.store.path(step));
        };
        let name = CheckpointStore::name(step);
        let to = self.store.dir.join(format!("{UNFINISHED}rank-{rank}-{name}"));
        let loaded = remote.fetch(run, step, &to).and_then(|()| load_checkpoint(&to));
        // What stays is in nobody's way: the next such fetch empties it.
        let _ = fs::remove_dir_all(&to);
        loaded
    }

    #[cfg(test)]
    pub(super) fn remote(&self) -> &Remote {
        self.remote.as_ref().expect("a test that has one")
    }

    /// Whether another copy may be good where this one failed so.
    pub(crate) fn may_pass_over(error: &anyhow::Error) -> bool {
        is_of_one_copy(error)
    }

    fn take(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        self.under_way = None;
        match outcome {
            Ok(step) => self.news = Some(step),
            Err(reason) => bail!(reason),
        }
        Ok(())
    }
}

/// After a failure or a panic, which the process has reported as its own.
const GONE: &str = "no checkpoint can be written any more, the thread that does it has failed";

/// The thread.
struct Writer {
    store: CheckpointStore,
    /// What the run's store is to have, where there is one.
    wishes: Option<watch::Sender<Wish>>,
    committed: Arc<AtomicU32>,
    settings: Checkpoint,
    free_bytes: fn(&Path) -> io::Result<u64>,
}

impl Writer {
    /// Its error ends the process: a run that cannot keep what it learns does not go on.
    fn run(
        self,
        orders: &Receiver<Contents>,
        outcomes: &SyncSender<Outcome>,
    ) -> anyhow::Result<()> {
        for contents in orders {
            let outcome = self.write(contents);
            let told = outcome.as_ref().copied().map_err(|error| format!("{error:#}"));
            // Nobody asks any more where the training has ended.
            let _ = outcomes.send(told);
            outcome?;
        }
        Ok(())
    }

    fn write(&self, contents: Contents) -> anyhow::Result<u32> {
        let (step, started) = (contents.state.step, Instant::now());
        let run = contents.state.run.clone();
        let unwritten = || format!("cannot write checkpoint {}", self.store.path(step).display());
        self.make_room(contents.bytes()).with_context(unwritten)?;
        let name = self.store.write(contents)?;
        metrics::CHECKPOINTS.increment(1, &[]);
        let seconds = started.elapsed().as_secs_f64();
        metrics::CHECKPOINT_SECONDS.record(seconds, &[]);
        info!(step, checkpoint = name, seconds, "wrote a checkpoint");
        if let Some(wishes) = &self.wishes {
            wishes.send_modify(|wish| wish.add(&run, step));
        }
        self.store.prune(self.committed.load(Ordering::SeqCst))?;
        Ok(step)
    }

    /// What the next checkpoint replaces goes before it is written where it would not fit otherwise.
    fn make_room(&self, needed: u64) -> anyhow::Result<()> {
        let (dir, committed) = (&self.store.dir, self.committed.load(Ordering::SeqCst));
        let free = (self.free_bytes)(dir).context("the free space is not known")?;
        let missing = self.settings.missing_bytes(free, needed);
        if !self.store.make_room(missing, committed)? {
            self.settings.check_room(dir, free, needed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
