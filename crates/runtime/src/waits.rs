//! What this process waits for at this moment, for people who ask why nothing moves. Each wait has a
//! name; what ends it is not known here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static WAITS: Mutex<BTreeMap<u64, Entry>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Entry {
    what: String,
    since: Instant,
    limit: Option<Duration>,
}

/// One wait of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitInfo {
    pub what: String,
    /// How long already.
    pub since: Duration,
    /// `None`: until the run ends or stalls.
    pub limit: Option<Duration>,
}

/// The wait lasts until this is dropped.
#[derive(Debug)]
#[must_use = "the wait is over when this is dropped"]
pub struct Waiting(u64);

/// From now on this process waits for `what`, at most for `limit`.
pub fn waiting(what: impl Into<String>, limit: Option<Duration>) -> Waiting {
    let mut waits = lock();
    // Never given twice: the last one is the highest.
    let id = waits.last_key_value().map_or(0, |(last, _)| last + 1);
    waits.insert(id, Entry { what: what.into(), since: Instant::now(), limit });
    Waiting(id)
}

/// All waits of this process, the longest first.
#[must_use]
pub fn waits(now: Instant) -> Vec<WaitInfo> {
    let mut found: Vec<WaitInfo> = lock()
        .values()
        .map(|entry| WaitInfo {
            what: entry.what.clone(),
            since: now.saturating_duration_since(entry.since),
            limit: entry.limit,
        })
        .collect();
    found.sort_by_key(|wait| std::cmp::Reverse(wait.since));
    found
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock().remove(&self.0);
    }
}

fn lock() -> MutexGuard<'static, BTreeMap<u64, Entry>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process wait as well.
    fn of(now: Instant, prefix: &str) -> Vec<WaitInfo> {
        waits(now).into_iter().filter(|wait| wait.what.starts_with(prefix)).collect()
    }

    #[test]
    fn waits_are_listed_while_they_last_the_longest_first() {
        let limit = Some(Duration::from_secs(30));
        let first = waiting("test: the sums of rank 1", limit);
        let start = Instant::now();
        while Instant::now() == start {}
        let second = waiting("test: work", None);
        let later = Instant::now() + Duration::from_secs(5);
        let found = of(later, "test: ");
        let names: Vec<_> = found.iter().map(|wait| (&*wait.what, wait.limit)).collect();
        assert_eq!(names, [("test: the sums of rank 1", limit), ("test: work", None)]);
        assert!(found[0].since > found[1].since && found[1].since >= Duration::from_secs(5));
        drop(first);
        assert_eq!(of(later, "test: ").len(), 1);
        let third = waiting("test: again", None);
        drop(second);
        assert_eq!(of(later, "test: ")[0].what, "test: again");
        drop(third);
        assert_eq!(of(later, "test: "), []);
    }
}
