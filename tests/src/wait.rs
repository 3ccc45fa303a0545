//! Waiting for a predicate with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// Polls until `predicate` gives a value.
///
/// # Panics
/// Nothing after `limit`; the message names what was waited for.
pub fn wait_until<T>(what: &str, limit: Duration, mut predicate: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = predicate() {
            return value;
        }
        assert!(start.elapsed() < limit, "no {what} within {} s", limit.as_secs());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether a process runs; one that has ended and was not collected does not.
#[must_use]
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    state.is_some_and(|s| !matches!(s, 'Z' | 'X'))
}
