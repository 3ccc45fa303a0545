//! Whether a process that has ended is started again, and after how long. Starting is `children`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::RetryPolicy;

/// Counts what was started again since the run last got on.
#[derive(Clone, Debug)]
pub struct Restarts {
    /// `coordinator.restarts_max`
    limit: u32,
    counts: BTreeMap<String, u32>,
    /// The progress at which counting began.
    mark: u64,
}

impl Restarts {
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, counts: BTreeMap::new(), mark: 0 }
    }

    /// Without progress in between.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// How long to wait before the process is started again, and the how manieth time it is since
    /// the run got on; `None` where it was too often. `progress` never falls.
    pub fn next(&mut self, name: &str, progress: u64) -> Option<(Duration, u32)> {
        if progress > self.mark {
            self.mark = progress;
            self.counts.clear();
        }
        let count = self.counts.entry(name.to_owned()).or_default();
        *count += 1;
        let policy = RetryPolicy {
            attempts: self.limit + 1,
            first_delay: Duration::from_millis(250),
            delay_max: Duration::from_secs(10),
            ..RetryPolicy::default()
        };
        policy.delay_after(*count).map(|delay| (delay, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_started_again_so_often_without_progress_and_no_more() {
        let mut restarts = Restarts::new(3);
        let counted = |restarts: &mut Restarts, name: &str, progress| {
            restarts.next(name, progress).map(|(_, count)| count)
        };
        let tries: Vec<_> = (0..4).map(|_| counted(&mut restarts, "actor-0", 7)).collect();
        assert_eq!(tries, [Some(1), Some(2), Some(3), None]);
        assert_eq!(counted(&mut restarts, "actor-1", 7), Some(1), "each has its own count");
        assert_eq!(counted(&mut restarts, "actor-0", 8), Some(1), "the run has got on");
        assert_eq!(counted(&mut Restarts::new(0), "actor-0", 0), None);
    }

    #[test]
    fn waits_grow() {
        let mut restarts = Restarts::new(9);
        let waits: Vec<Duration> =
            (0..9).map(|_| restarts.next("learner-0", 0).unwrap().0).collect();
        assert!(waits[0] < waits[3] && waits[3] < waits[8], "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)));
    }
}
