//! Bounded retries with exponential delays. The delays are a pure function of the policy; which
//! errors deserve a retry is the caller's word.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tracing::warn;

use crate::waits::waiting;

/// How often, and how far apart, something is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries altogether, the first included; 0 counts as 1.
    pub attempts: u32,
    /// Delay before the second try.
    pub first_delay: Duration,
    /// No delay is longer than this.
    pub delay_max: Duration,
    /// Growth of the delay from one try to the next.
    pub factor: f64,
    /// Share of each delay, in 0..=1, that is drawn at random, so that many clients of one dead
    /// peer do not come back in step.
    pub jitter: f64,
    pub seed: u64,
}

impl Default for RetryPolicy {
    /// The seed differs from process to process of one machine.
    fn default() -> Self {
        Self {
            attempts: 6,
            first_delay: Duration::from_millis(100),
            delay_max: Duration::from_secs(5),
            factor: 2.0,
            jitter: 0.5,
            seed: u64::from(std::process::id()),
        }
    }
}

impl RetryPolicy {
    /// Goes on trying for at least so long, whatever the draws.
    #[must_use]
    pub fn lasting(patience: Duration) -> Self {
        let policy = Self::default();
        let (mut attempts, mut waited) = (1, Duration::ZERO);
        while waited < patience {
            waited += policy.full_delay(attempts).mul_f64(1.0 - policy.jitter);
            attempts += 1;
        }
        Self { attempts, ..policy }
    }

    /// Before anything is drawn.
    fn full_delay(&self, failed: u32) -> Duration {
        let growth = self.factor.max(1.0).powf(f64::from(failed.saturating_sub(1)));
        let full = (self.first_delay.as_secs_f64() * growth).min(self.delay_max.as_secs_f64());
        Duration::from_secs_f64(full)
    }

    /// The delay after try number `failed` (from 1) has failed, or `None` when it was the last.
    pub fn delay_after(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts.max(1) {
            return None;
        }
        let drawn = self.jitter.clamp(0.0, 1.0) * uniform(self.seed, failed);
        Some(self.full_delay(failed).mul_f64(1.0 - drawn))
    }
}

/// What a failed try says about the next one. `?` on an error makes it `Again`.
#[derive(Debug)]
pub enum Attempt<E> {
    /// The fault may pass.
    Again(E),
    /// Another try would fail in the same way.
    Stop(E),
}

impl<E> From<E> for Attempt<E> {
    fn from(failure: E) -> Self {
        Attempt::Again(failure)
    }
}

/// The last error of something that was tried as often as allowed, or not worth another try.
#[derive(Debug)]
pub struct GaveUp<E> {
    pub what: String,
    pub attempts: u32,
    pub error: E,
}

impl<E: fmt::Display> fmt::Display for GaveUp<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed after {} attempts: {:#}", self.what, self.attempts, self.error)
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for GaveUp<E> {}

/// Runs `op` until it succeeds, says `Stop` or the policy is used up. Dropping the future, for
/// instance in a `select!` with the shutdown, ends it in the middle of a delay.
pub async fn retry<T, E, F, Op>(policy: RetryPolicy, what: &str, mut op: Op) -> Result<T, GaveUp<E>>
where
    E: fmt::Display,
    F: Future<Output = Result<T, Attempt<E>>>,
    Op: FnMut() -> F,
{
    let _waits = waiting(what, None);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (error, delay) = match op().await {
            Ok(value) => return Ok(value),
            Err(Attempt::Stop(error)) => (error, None),
            Err(Attempt::Again(error)) => (error, policy.delay_after(attempts)),
        };
        let Some(delay) = delay else {
            return Err(GaveUp { what: what.to_owned(), attempts, error });
        };
        let delay_ms = delay.as_millis();
        warn!(what, attempts, delay_ms, error = format!("{error:#}"), "will try again");
        tokio::time::sleep(delay).await;
    }
}

/// A number in [0,1) from (seed, index): the SplitMix64 finaliser (Steele et al. 2014, figure 15).
fn uniform(seed: u64, index: u32) -> f64 {
    let mut z = seed.wrapping_add(u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const QUICK: RetryPolicy = RetryPolicy {
        attempts: 4,
        first_delay: Duration::from_micros(10),
        delay_max: Duration::from_micros(30),
        factor: 2.0,
        jitter: 0.0,
        seed: 0,
    };

    #[test]
    fn delays_double_up_to_the_limit_and_end() {
        let delays: Vec<_> = (1..=4).map(|failed| QUICK.delay_after(failed)).collect();
        let micros = |n| Some(Duration::from_micros(n));
        assert_eq!(delays, [micros(10), micros(20), micros(30), None]);
    }

    #[test]
    fn jitter_shortens_within_its_share_and_depends_on_the_seed() {
        let first_delay = Duration::from_secs(8);
        let policy = RetryPolicy { attempts: 100, first_delay, jitter: 0.5, ..QUICK };
        let policy = RetryPolicy { delay_max: Duration::from_secs(8), ..policy };
        let delays = |seed| -> Vec<Duration> {
            let seeded = RetryPolicy { seed, ..policy };
            (1..100).filter_map(|failed| seeded.delay_after(failed)).collect()
        };
        let drawn = delays(7);
        let (low, high) = (Duration::from_secs(4), Duration::from_secs(8));
        assert!(drawn.iter().all(|delay| (low..=high).contains(delay)), "{drawn:?}");
        let mean = drawn.iter().sum::<Duration>().as_secs_f64() / drawn.len() as f64;
        assert!((mean - 6.0).abs() < 0.4, "mean {mean}");
        assert_eq!(drawn, delays(7));
        assert_ne!(drawn, delays(8));
        assert_eq!(RetryPolicy::default().seed, u64::from(std::process::id()));
    }

    #[test]
    fn a_lasting_policy_lasts_whatever_is_drawn() {
        let patience = Duration::from_secs(60);
        for seed in 0..100 {
            let policy = RetryPolicy { seed, ..RetryPolicy::lasting(patience) };
            let total: Duration = (1..).map_while(|failed| policy.delay_after(failed)).sum();
            assert!((patience..3 * patience).contains(&total), "{total:?}");
        }
        assert_eq!(RetryPolicy::lasting(Duration::ZERO).delay_after(1), None);
    }

    async fn fails_until(good: u32, tries: &Cell<u32>) -> Result<u32, Attempt<String>> {
        tries.set(tries.get() + 1);
        if tries.get() < good {
            Err(format!("try {} refused", tries.get()))?;
        }
        Ok(tries.get())
    }

    #[tokio::test]
    async fn a_passing_fault_is_outlived() {
        let tries = Cell::new(0);
        let third = retry(QUICK, "connecting", || fails_until(3, &tries)).await;
        assert_eq!(third.expect("the third try succeeds"), 3);
    }

    #[tokio::test]
    async fn a_lasting_fault_ends_with_the_policy() {
        let tries = Cell::new(0);
        let failure = retry(QUICK, "connecting", || fails_until(9, &tries)).await;
        let failure = failure.expect_err("four tries are allowed");
        assert_eq!(failure.to_string(), "connecting failed after 4 attempts: try 4 refused");
        assert_eq!(tries.get(), 4);
    }

    #[tokio::test]
    async fn a_hopeless_fault_is_not_repeated() {
        let hopeless = || async { Err::<(), _>(Attempt::Stop("wrong hash")) };
        let failure = retry(QUICK, "fetching", hopeless).await.expect_err("stopped");
        assert_eq!((failure.attempts, failure.error), (1, "wrong hash"));
    }
}
