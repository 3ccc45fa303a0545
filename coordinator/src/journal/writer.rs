//! Group commit: entries queue up in order, one thread writes all that there are in one frame, and
//! tickets learn when theirs is on disk. The first failed write is the last.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::JournalEntry;
use runtime::{Shutdown, TaskGroup, within};
use settings::Settings;
use tokio::sync::watch;

use super::frame::Batch;
use super::{JournalError, JournalFile, file};

#[cfg(test)]
mod by_hand;
#[cfg(test)]
pub(crate) use by_hand::Pen;

/// How often an idle writer looks whether it is to end.
const LOOK: Duration = Duration::from_millis(250);

/// Bounds of the writer.
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    /// Of every wait for the disk.
    pub timeout: Duration,
    /// Entries that wait to be written; one more may always join an empty queue.
    pub queue_bytes: usize,
}

impl JournalLimits {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            timeout: Duration::from_millis(u64::from(settings.coordinator.journal_timeout_ms)),
            queue_bytes: usize::try_from(settings.coordinator.journal_queue_bytes)
                .unwrap_or(usize::MAX),
        }
    }
}

/// The journal in use; clones are the same. Dropping the last one closes it.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Journal {
    /// Starts the writer. It ends, with all that is queued on disk, when the journal is closed or
    /// the group is told to stop.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(file: JournalFile, tasks: &TaskGroup, limits: JournalLimits) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(file.durable(), limits));
        let (writer, shutdown) = (Arc::clone(&shared), tasks.shutdown().clone());
        tasks.spawn_thread("journal", move || {
            writer.write(file, &shutdown);
            Ok(())
        })?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Puts an entry at the end of the queue. May be called under a lock: it waits only where the
    /// queue is full. Why an entry is refused, its ticket says.
    pub fn append(&self, entry: &JournalEntry) -> Ticket {
        let shared = Arc::clone(&self.0.0);
        let sequence = file::encode(entry).and_then(|bytes| shared.push(bytes));
        Ticket { sequence, shared }
    }

    /// The first failed write, after which nothing is acknowledged any more.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.0.0.failed().map(|error| error.to_string())
    }

    /// Takes no more entries; those in the queue are written and the writer ends.
    pub fn close(&self) {
        self.0.0.close();
    }
}

/// A claim to one entry.
#[must_use = "an entry counts only once its ticket says that it is on disk"]
#[derive(Debug)]
pub struct Ticket {
    sequence: Result<u64, JournalError>,
    shared: Arc<Shared>,
}

impl Ticket {
    /// Waits until the entry is on disk.
    ///
    /// # Errors
    /// It is not and never will be, or it is not known to be in time.
    pub async fn durable(self) -> Result<(), JournalError> {
        let sequence = self.sequence?;
        let mut progress = self.shared.progress.subscribe();
        let limit = self.shared.limits.timeout;
        let over = progress.wait_for(|p| p.durable >= sequence || p.failed.is_some());
        let Ok(over) = within("the journal", limit, over).await else {
            return Err(JournalError::Late { waited_ms: limit.as_millis() });
        };
        // The ticket holds the sender.
        let over = over.map_err(|_| JournalError::Closed)?;
        match &over.failed {
            Some(error) if over.durable < sequence => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Shared {
    limits: JournalLimits,
    queue: Mutex<Queue>,
    /// There is something to write, or nothing ever more.
    work: Condvar,
    /// The queue has become shorter.
    room: Condvar,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Number of the last entry that was queued.
    last: u64,
    closed: bool,
}

#[derive(Debug)]
struct Progress {
    /// Number of the last entry that is on disk.
    durable: u64,
    failed: Option<JournalError>,
}

impl Shared {
    /// So many entries are on disk already.
    fn new(durable: u64, limits: JournalLimits) -> Self {
        let (progress, _) = watch::channel(Progress { durable, failed: None });
        let queue = Mutex::new(Queue { last: durable, ..Queue::default() });
        Self { limits, queue, work: Condvar::new(), room: Condvar::new(), progress }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> Option<JournalError> {
        self.progress.borrow().failed.clone()
    }

    fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    fn push(&self, bytes: Vec<u8>) -> Result<u64, JournalError> {
        let asked = Instant::now();
        let mut queue = self.lock();
        loop {
            if let Some(error) = self.failed() {
                return Err(error);
            }
            if queue.closed {
                return Err(JournalError::Closed);
            }
            if queue.entries.is_empty() || queue.bytes + bytes.len() <= self.limits.queue_bytes {
                break;
            }
            let waited = asked.elapsed();
            let Some(left) = self.limits.timeout.checked_sub(waited) else {
                return Err(JournalError::Queue { waited_ms: waited.as_millis() });
            };
            queue = self.room.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.bytes += bytes.len();
        queue.entries.push_back(bytes);
        queue.last += 1;
        self.work.notify_one();
        Ok(queue.last)
    }

    fn write(&self, mut file: JournalFile, shutdown: &Shutdown) {
        while let Some(batch) = self.next_batch(shutdown) {
            if let Err(error) = self.write_batch(&mut file, &batch) {
                tracing::error!(%error, "the journal takes no more entries");
                self.fail(error);
                if let Err(error) = file.cut_back() {
                    tracing::error!(%error, "the journal's last write may be left in part");
                }
                return;
            }
        }
    }

    fn write_batch(&self, file: &mut JournalFile, batch: &Batch) -> Result<(), JournalError> {
        file.append(batch)?;
        self.progress.send_modify(|progress| progress.durable = file.durable());
        file.seal()
    }

    /// All that is queued, as far as it fits into a frame; none when nothing will ever come.
    fn next_batch(&self, shutdown: &Shutdown) -> Option<Batch> {
        let mut queue = self.lock();
        while queue.entries.is_empty() {
            queue.closed |= shutdown.requested();
            if queue.closed {
                return None;
            }
            queue = self.work.wait_timeout(queue, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut batch = Batch::default();
        while let Some(entry) = queue.entries.pop_front_if(|entry| batch.fits(entry.len())) {
            queue.bytes -= entry.len();
            batch.push(&entry);
        }
        self.room.notify_all();
        Some(batch)
    }

    fn fail(&self, error: JournalError) {
        self.progress.send_modify(|progress| progress.failed = Some(error));
        let mut queue = self.lock();
        queue.entries.clear();
        queue.bytes = 0;
        self.room.notify_all();
    }
}
