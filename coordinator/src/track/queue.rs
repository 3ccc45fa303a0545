//! What waits for one tracker. Whoever puts something in never waits: what finds no room is dropped
//! and counted, and what was undone before it went out is taken back.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::record::Record;
use crate::metrics::TRACK_POINTS;

/// Records that are taken out at once.
const BATCH_RECORDS: usize = 100;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Stopped,
    Failed,
}

/// What the tracker's thread does next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Records(Vec<Record>),
    /// Everything after this step is void.
    Undone(u32),
    End(Status),
}

#[derive(Debug)]
pub(super) struct Queue {
    tracker: &'static str,
    records_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Of the items.
    records: usize,
    closed: Option<Status>,
    /// Whether it was logged that something was dropped.
    told: bool,
}

#[derive(Debug)]
enum Item {
    Record(Record),
    Undone(u32),
}

impl Queue {
    pub(super) fn new(tracker: &'static str, records_max: usize) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { tracker, records_max, state, changed }
    }

    /// Whose it is.
    pub(super) fn tracker(&self) -> &'static str {
        self.tracker
    }

    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.records >= self.records_max || state.closed.is_some() {
            if !std::mem::replace(&mut state.told, true) {
                let (tracker, most) = (self.tracker, self.records_max);
                tracing::warn!(tracker, most, "the queue of a tracker is full, points are dropped");
            }
            drop(state);
            return self.dropped(std::slice::from_ref(&record));
        }
        state.records += 1;
        state.items.push_back(Item::Record(record));
        self.changed.notify_all();
    }

    /// Takes back what waits of later steps, and tells of those that went out. Two of them in a row
    /// are one, so that there are never more of them than records.
    pub(super) fn undone(&self, step: u32) {
        let mut state = self.lock();
        state.items.retain(|item| !matches!(item, Item::Record(record) if record.step > step));
        state.records = state.items.iter().filter(|item| matches!(item, Item::Record(_))).count();
        match state.items.back_mut() {
            Some(Item::Undone(earlier)) => *earlier = step.min(*earlier),
            _ => state.items.push_back(Item::Undone(step)),
        }
        self.changed.notify_all();
    }

    /// Nothing comes any more. The first status stays.
    pub(super) fn close(&self, status: Status) {
        self.lock().closed.get_or_insert(status);
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Waits for something to do.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        loop {
            match (state.items.pop_front(), state.closed) {
                (Some(Item::Undone(step)), _) => return Next::Undone(step),
                (Some(Item::Record(first)), _) => {
                    let mut records = vec![first];
                    while records.len() < BATCH_RECORDS
                        && let Some(Item::Record(_)) = state.items.front()
                        && let Some(Item::Record(record)) = state.items.pop_front()
                    {
                        records.push(record);
                    }
                    state.records -= records.len();
                    return Next::Records(records);
                }
                (None, Some(status)) => return Next::End(status),
                // The end of the run closes every queue.
                (None, None) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits before another try, not beyond the end of the run.
    pub(super) fn pause(&self, time: Duration) {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |s| s.closed.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn written(&self, records: &[Record]) {
        self.count("written", records);
    }

    pub(super) fn dropped(&self, records: &[Record]) {
        self.count("dropped", records);
    }

    fn count(&self, outcome: &'static str, records: &[Record]) {
        let points: usize = records.iter().map(|record| record.points.len()).sum();
        let labels = [("tracker", self.tracker), ("outcome", outcome)];
        TRACK_POINTS.increment(points as u64, &labels);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u32) -> Record {
        Record { step, at_ms: 0, points: vec![("train/loss".to_owned(), 1.0)] }
    }

    fn steps(next: Next) -> Vec<u32> {
        match next {
            Next::Records(records) => records.iter().map(|record| record.step).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_beyond_the_bound_are_dropped_and_those_before_them_stay() {
        let queue = Queue::new("mlflow", 3);
        (1..=5).for_each(|step| queue.push(record(step)));
        assert_eq!(steps(queue.next()), [1, 2, 3]);
        queue.push(record(6));
        queue.close(Status::Stopped);
        queue.close(Status::Failed);
        queue.push(record(7));
        assert_eq!(steps(queue.next()), [6]);
        assert_eq!(queue.next(), Next::End(Status::Stopped));
    }

    #[test]
    fn what_was_undone_is_taken_back_and_told_once() {
        let queue = Queue::new("mlflow", 10);
        (1..=5).for_each(|step| queue.push(record(step)));
        queue.undone(3);
        queue.undone(2);
        queue.push(record(3));
        assert_eq!(steps(queue.next()), [1, 2]);
        assert_eq!(queue.next(), Next::Undone(2));
        assert_eq!(steps(queue.next()), [3]);
    }

    #[test]
    fn the_bound_is_of_what_waits_now() {
        let queue = Queue::new("mlflow", 2);
        (1..=2).for_each(|step| queue.push(record(step)));
        queue.undone(0);
        (1..=2).for_each(|step| queue.push(record(step)));
        assert_eq!(queue.next(), Next::Undone(0));
        assert_eq!(steps(queue.next()), [1, 2]);
    }
}
