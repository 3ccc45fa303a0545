//! Health is progress: a process that is alive but stuck is not healthy. Who restarts it is
//! decided elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When the process last got something done. Clones share the record.
#[derive(Clone, Debug)]
pub struct Health {
    /// `None` once there is nothing left to do.
    last: Arc<Mutex<Option<Instant>>>,
    limit: Duration,
}

impl Health {
    /// Healthy while the last `beat` is at most `limit` old; the creation counts as a beat.
    pub fn of_progress(limit: Duration) -> Self {
        Self { last: Arc::new(Mutex::new(Some(Instant::now()))), limit }
    }

    /// Something got done, or was looked for and is not there yet.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// As `beat`, at a given time; an earlier time than the last one changes nothing.
    pub fn beat_at(&self, now: Instant) {
        if let Some(last) = self.lock().as_mut() {
            *last = now.max(*last);
        }
    }

    /// All work is done: from here on idleness is right.
    pub fn rest(&self) {
        *self.lock() = None;
    }

    /// Since something got done; nothing where there is nothing left to do.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Duration {
        self.lock().map(|last| now.saturating_duration_since(last)).unwrap_or_default()
    }

    /// `Err` says for how long nothing got done.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let Some(last) = *self.lock() else { return Ok(()) };
        let idle = now.saturating_duration_since(last);
        if idle <= self.limit {
            return Ok(());
        }
        let (idle, limit) = (idle.as_secs(), self.limit.as_secs());
        Err(format!("no progress for {idle} s, the limit is {limit} s"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_keeps_a_process_healthy() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::of_progress(Duration::from_secs(60));
        health.beat_at(at(100));
        assert_eq!(health.check(at(160)), Ok(()));
        let stuck = "no progress for 73 s, the limit is 60 s".to_owned();
        assert_eq!(health.check(at(173)), Err(stuck));
        health.clone().beat_at(at(173));
        health.beat_at(at(101));
        assert_eq!(health.check(at(233)), Ok(()));
    }

    #[test]
    fn a_process_that_is_done_may_idle() {
        let health = Health::of_progress(Duration::ZERO);
        let later = Instant::now() + Duration::from_secs(86_400);
        let stuck = "no progress for 86400 s, the limit is 0 s".to_owned();
        assert_eq!(health.check(later), Err(stuck));
        health.clone().rest();
        health.beat_at(Instant::now());
        assert_eq!(health.check(later), Ok(()));
    }
}
