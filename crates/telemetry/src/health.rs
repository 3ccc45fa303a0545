//! Health is progress: a process that is alive but stuck is not healthy. Who restarts it is
//! decided elsewhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When the process last got something done. Clones share the record.
#[derive(Clone, Debug)]
pub struct Health {
    progress: Option<Progress>,
}

#[derive(Clone, Debug)]
struct Progress {
    last: Arc<Mutex<Instant>>,
    limit: Duration,
}

impl Health {
    /// Healthy for as long as it answers at all; for a process that may rightly be idle.
    pub fn alive() -> Self {
        Self { progress: None }
    }

    /// Healthy while the last `beat` is at most `limit` old; the creation counts as a beat.
    pub fn of_progress(limit: Duration) -> Self {
        Self { progress: Some(Progress { last: Arc::new(Mutex::new(Instant::now())), limit }) }
    }

    /// Something got done.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// As `beat`, at a given time; an earlier time than the last one changes nothing.
    pub fn beat_at(&self, now: Instant) {
        if let Some(progress) = &self.progress {
            let mut last = progress.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = now.max(*last);
        }
    }

    /// `Err` says for how long nothing got done.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let Some(progress) = &self.progress else { return Ok(()) };
        let last = *progress.last.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = now.saturating_duration_since(last);
        if idle <= progress.limit {
            return Ok(());
        }
        let (idle, limit) = (idle.as_secs(), progress.limit.as_secs());
        Err(format!("no progress for {idle} s, the limit is {limit} s"))
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
    fn a_process_without_a_limit_is_healthy_for_ever() {
        let later = Instant::now() + Duration::from_secs(86_400);
        assert_eq!(Health::alive().check(later), Ok(()));
    }
}
