//! The table of KV sessions: which cache row holds which text, and which text goes first when all
//! rows are taken. No tensors, no clock, no transport.

use std::collections::HashMap;

use types::SessionId;

use crate::text::SessionText;

/// One actor's stream; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Session ids are unique within their stream only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub stream: StreamId,
    pub session: SessionId,
}

/// As many sessions as there are cache rows.
pub struct SessionTable {
    entries: HashMap<SessionKey, Entry>,
    free_rows: Vec<usize>,
    uses: u64,
}

struct Entry {
    row: usize,
    text: SessionText,
    /// Of all uses, the number of the last.
    last_used: u64,
    in_batch: bool,
}

impl SessionTable {
    #[must_use]
    pub fn new(rows: usize) -> Self {
        Self { entries: HashMap::new(), free_rows: (0..rows).rev().collect(), uses: 0 }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[must_use]
    pub fn text(&self, key: SessionKey) -> Option<&SessionText> {
        self.entries.get(&key).map(|entry| &entry.text)
    }

    pub fn text_mut(&mut self, key: SessionKey) -> Option<&mut SessionText> {
        self.entries.get_mut(&key).map(|entry| &mut entry.text)
    }

    #[must_use]
    pub fn row(&self, key: SessionKey) -> Option<usize> {
        self.entries.get(&key).map(|entry| entry.row)
    }

    #[must_use]
    pub fn in_batch(&self, key: SessionKey) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.in_batch)
    }

    /// Whether [`Self::place`] would succeed.
    #[must_use]
    pub fn has_room(&self, key: SessionKey) -> bool {
        self.entries.contains_key(&key)
            || !self.free_rows.is_empty()
            || self.entries.values().any(|entry| !entry.in_batch)
    }

    /// Gives the text a row: its predecessor's of the same key, a free one, or the one of the
    /// session least recently used that is not in the batch, which is then evicted and named.
    ///
    /// # Panics
    /// Without [`Self::has_room`].
    pub fn place(&mut self, key: SessionKey, text: SessionText) -> Option<SessionKey> {
        let own = self.entries.remove(&key).map(|entry| entry.row);
        let (row, evicted) = match own.or_else(|| self.free_rows.pop()) {
            Some(row) => (row, None),
            None => {
                let oldest = self.oldest_idle().expect("the caller made sure that there is room");
                let entry = self.entries.remove(&oldest).expect("the oldest is one of them");
                (entry.row, Some(oldest))
            }
        };
        self.uses += 1;
        let entry = Entry { row, text, last_used: self.uses, in_batch: false };
        self.entries.insert(key, entry);
        evicted
    }

    /// Marks a session as used, and as part of the batch or not.
    pub fn touch(&mut self, key: SessionKey, in_batch: bool) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.last_used = self.uses;
            entry.in_batch = in_batch;
        }
    }

    pub fn close(&mut self, key: SessionKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.free_rows.push(entry.row);
        }
    }

    /// Frees all sessions of a stream.
    pub fn close_stream(&mut self, stream: StreamId) {
        let keys: Vec<_> = self.entries.keys().filter(|k| k.stream == stream).copied().collect();
        keys.into_iter().for_each(|key| self.close(key));
    }

    fn oldest_idle(&self) -> Option<SessionKey> {
        let idle = self.entries.iter().filter(|(_, entry)| !entry.in_batch);
        idle.min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{open, rulebook};

    fn key(stream: u64, session: u64) -> SessionKey {
        SessionKey { stream: StreamId(stream), session: SessionId(session) }
    }

    fn text() -> SessionText {
        SessionText::open(&open("token:0.5", 1), &rulebook()).unwrap()
    }

    #[test]
    fn the_least_recently_used_goes_first_unless_it_is_in_the_batch() {
        let mut table = SessionTable::new(3);
        for session in 0..3 {
            assert_eq!(table.place(key(0, session), text()), None);
        }
        table.touch(key(0, 0), false);
        table.touch(key(0, 1), true);
        assert_eq!(table.place(key(1, 0), text()), Some(key(0, 2)));
        assert_eq!(table.place(key(1, 1), text()), Some(key(0, 0)));
        assert_eq!((table.len(), table.row(key(0, 2))), (3, None));
        table.touch(key(1, 0), true);
        table.touch(key(1, 1), true);
        assert!(!table.has_room(key(2, 0)) && table.has_room(key(1, 1)));
        table.touch(key(0, 1), false);
        assert_eq!(table.place(key(2, 0), text()), Some(key(0, 1)));
    }

    #[test]
    fn sessions_are_their_streams_and_go_with_it() {
        let mut table = SessionTable::new(4);
        for stream in 0..2 {
            table.place(key(stream, 7), text());
        }
        assert_ne!(table.row(key(0, 7)), table.row(key(1, 7)));
        table.close_stream(StreamId(0));
        assert!(table.text(key(0, 7)).is_none() && table.text(key(1, 7)).is_some());
        table.close(key(1, 7));
        table.close(key(1, 7));
        assert!(table.is_empty());
        let rows = (0..4).map(|s| {
            assert_eq!(table.place(key(0, s), text()), None);
            table.row(key(0, s)).unwrap()
        });
        let rows: std::collections::BTreeSet<_> = rows.collect();
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn a_session_opened_again_keeps_its_row() {
        let mut table = SessionTable::new(2);
        table.place(key(0, 0), text());
        let row = table.row(key(0, 0));
        table.place(key(0, 1), text());
        assert_eq!(table.place(key(0, 0), text()), None);
        assert_eq!(table.row(key(0, 0)), row);
    }
}
