//! A journal whose disk is the test's: it says when something is written, and when it is safe.

use std::sync::Arc;

use proto::JournalEntry;

use super::{Handle, Journal, JournalLimits, Shared};

/// What stands for the writer's thread.
pub(crate) struct Pen {
    shared: Arc<Shared>,
    taken: u64,
}

impl Journal {
    /// A journal that nobody writes but whoever holds the pen.
    pub(crate) fn by_hand(limits: JournalLimits) -> (Self, Pen) {
        let shared = Arc::new(Shared::new(0, limits));
        let journal = Self(Arc::new(Handle(Arc::clone(&shared))));
        (journal, Pen { shared, taken: 0 })
    }
}

impl Pen {
    /// All that waits to be written, in its order.
    pub(crate) fn take(&mut self) -> Vec<JournalEntry> {
        let mut queue = self.shared.lock();
        queue.bytes = 0;
        let entries: Vec<_> = queue.entries.drain(..).collect();
        self.taken += entries.len() as u64;
        let decoded = entries.iter().map(|bytes| JournalEntry::decode(bytes).unwrap());
        decoded.collect()
    }

    /// All that was taken is on disk.
    pub(crate) fn synced(&self) {
        self.shared.progress.send_modify(|progress| progress.durable = self.taken);
    }
}
