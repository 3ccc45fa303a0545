//! How many tokens a forward may have, so that it is over long before those who wait take the silence
//! for a dead server and begin anew elsewhere: then a busy server would do the same work again and again.

use std::time::Duration;

/// A forward takes at most this share of the longest deadline in hand; actors give a late answer a
/// quarter of one.
const PER_DEADLINE: u32 = 8;

/// Tokens of the first forward, of which nothing is known.
const FIRST: usize = 256;

/// Learns from one forward what the next may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    least: usize,
    most: usize,
    tokens: usize,
}

impl Pace {
    /// Between `least` and `most` tokens.
    pub(crate) fn new(least: usize, most: usize) -> Self {
        let least = least.min(most);
        Self { least, most, tokens: FIRST.clamp(least, most) }
    }

    pub(crate) fn tokens(self) -> usize {
        self.tokens
    }

    /// A forward of `tokens` took `time` while `deadline` was the longest in hand.
    pub(crate) fn took(&mut self, tokens: usize, time: Duration, deadline: Duration) {
        let allowed = deadline / PER_DEADLINE;
        let next = if time > allowed {
            (tokens as f64 * allowed.as_secs_f64() / time.as_secs_f64()) as usize
        } else if tokens >= self.tokens && time * 2 <= allowed {
            self.tokens * 2
        } else {
            return;
        };
        self.tokens = next.clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(8);

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn fast_forwards_grow_to_the_bound_and_slow_ones_shrink_to_what_fits() {
        let mut pace = Pace::new(64, 2048);
        let mut seen = vec![pace.tokens()];
        for _ in 0..4 {
            pace.took(pace.tokens(), seconds(0.01), DEADLINE);
            seen.push(pace.tokens());
        }
        assert_eq!(seen, [256, 512, 1024, 2048, 2048]);
        // 4 s where 1 s is allowed.
        pace.took(2048, seconds(4.0), DEADLINE);
        assert_eq!(pace.tokens(), 512);
        // Twice as many would not fit.
        pace.took(512, seconds(0.8), DEADLINE);
        assert_eq!(pace.tokens(), 512);
        // A forward that was not full says nothing of a larger one.
        pace.took(511, seconds(0.1), DEADLINE);
        assert_eq!(pace.tokens(), 512);
        pace.took(512, seconds(60.0), DEADLINE);
        assert_eq!(pace.tokens(), 64, "a token for every row");
    }

    #[test]
    fn bounds_below_the_first_are_kept() {
        assert_eq!(Pace::new(64, 100).tokens(), 100);
        assert_eq!(Pace::new(8, 3).tokens(), 3);
        assert_eq!(Pace::new(300, 400).tokens(), 300);
    }
}
