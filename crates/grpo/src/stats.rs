//! Raw statistics over strong tokens: unclamped f64 sums that add up over micro-batches and ranks.
//! Publishing them is the learner's.

use crate::Error;

/// Tokens are told apart by staleness: lag 0, lag 1, lag 2 and above.
pub const LAG_CLASSES: usize = 3;

/// Sums over tokens of one staleness. With r = p/q, training over sampler probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LagStats {
    pub tokens: f64,
    /// Σ (r − 1 − log r): the k3 estimate of KL(sampler ‖ training), Schulman, "Approximating KL
    /// divergence".
    pub k3: f64,
    /// Σ r and Σ r², for the effective sample size.
    pub ratio: f64,
    pub ratio_squared: f64,
    /// Tokens without policy gradient because their ratio (at the level of the loss) was clipped.
    pub clipped: f64,
    /// Tokens whose ratio (at the level of the loss) was above the truncation cap.
    pub truncated: f64,
    /// The largest |log r|. A maximum, the rest are sums.
    pub largest: f64,
}

const SUMS: usize = 6;
const OVERALL: usize = 3;

impl LagStats {
    fn add(&mut self, other: &Self) {
        let largest = self.largest.max(other.largest);
        let (mine, theirs) = (self.sums(), other.sums());
        *self = Self::from_sums(std::array::from_fn(|i| mine[i] + theirs[i]), largest);
    }

    fn sums(&self) -> [f64; SUMS] {
        let LagStats { tokens, k3, ratio, ratio_squared, clipped, truncated, .. } = *self;
        [tokens, k3, ratio, ratio_squared, clipped, truncated]
    }

    fn from_sums(sums: [f64; SUMS], largest: f64) -> Self {
        let [tokens, k3, ratio, ratio_squared, clipped, truncated] = sums;
        Self { tokens, k3, ratio, ratio_squared, clipped, truncated, largest }
    }

    /// KL(sampler ‖ training) per token, k3; 0 where there are no tokens, as all means here.
    #[must_use]
    pub fn mismatch_kl(&self) -> f64 {
        mean(self.k3, self.tokens)
    }

    /// Effective sample size (Σr)² / Σr² as a share of the tokens: 1 on policy.
    #[must_use]
    pub fn effective_share(&self) -> f64 {
        mean(self.ratio * self.ratio, self.ratio_squared * self.tokens)
    }

    #[must_use]
    pub fn clipped_share(&self) -> f64 {
        mean(self.clipped, self.tokens)
    }

    #[must_use]
    pub fn truncated_share(&self) -> f64 {
        mean(self.truncated, self.tokens)
    }
}

/// Everything the loss reports besides its value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RawStats {
    pub by_lag: [LagStats; LAG_CLASSES],
    /// Σ of the loss terms, the KL term included: the loss before its denominator.
    pub loss: f64,
    /// Σ k3 towards the run's start, without its coefficient.
    pub kl_start: f64,
    /// Σ −logp: on policy its mean estimates the entropy.
    pub surprisal: f64,
}

impl RawStats {
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.by_lag.iter_mut().zip(&other.by_lag) {
            mine.add(theirs);
        }
        self.loss += other.loss;
        self.kl_start += other.kl_start;
        self.surprisal += other.surprisal;
    }

    pub(crate) fn class(&mut self, lag: u32) -> &mut LagStats {
        &mut self.by_lag[(lag as usize).min(LAG_CLASSES - 1)]
    }

    /// All staleness classes together.
    #[must_use]
    pub fn total(&self) -> LagStats {
        let mut total = LagStats::default();
        for class in &self.by_lag {
            total.add(class);
        }
        total
    }

    #[must_use]
    pub fn tokens(&self) -> f64 {
        self.total().tokens
    }

    /// Per strong token.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        mean(self.loss, self.tokens())
    }

    /// KL(policy ‖ run's start) per strong token, k3.
    #[must_use]
    pub fn kl_to_start(&self) -> f64 {
        mean(self.kl_start, self.tokens())
    }

    #[must_use]
    pub fn mean_surprisal(&self) -> f64 {
        mean(self.surprisal, self.tokens())
    }

    /// A vector whose sum over all ranks is the whole: each rank puts its maxima into slots of
    /// its own, so that one summing all-reduce carries them too.
    ///
    /// # Panics
    /// Where `rank` is not below `world`.
    #[must_use]
    pub fn to_vec(&self, rank: usize, world: usize) -> Vec<f64> {
        assert!(rank < world, "rank {rank} of {world}");
        let mut values = vec![self.loss, self.kl_start, self.surprisal];
        for class in &self.by_lag {
            values.extend(class.sums());
            values.extend((0..world).map(|r| if r == rank { class.largest } else { 0.0 }));
        }
        values
    }

    /// # Errors
    /// A vector of another length than [`RawStats::to_vec`] makes for this `world`.
    pub fn from_vec(values: &[f64], world: usize) -> Result<Self, Error> {
        let expected = OVERALL + LAG_CLASSES * (SUMS + world);
        if values.len() != expected {
            let what = "statistics of all ranks";
            return Err(Error::Length { what, found: values.len(), expected });
        }
        let (overall, classes) = values.split_at(OVERALL);
        let by_lag = std::array::from_fn(|class| {
            let (sums, maxima) = classes[class * (SUMS + world)..][..SUMS + world].split_at(SUMS);
            let largest = maxima.iter().copied().fold(0.0, f64::max);
            LagStats::from_sums(std::array::from_fn(|i| sums[i]), largest)
        });
        Ok(Self { by_lag, loss: overall[0], kl_start: overall[1], surprisal: overall[2] })
    }
}

fn mean(sum: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { sum / count }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(seed: f64) -> RawStats {
        let class = |lag: f64| {
            let sums = std::array::from_fn(|i| seed + 10.0 * lag + i as f64);
            LagStats::from_sums(sums, seed * (lag + 0.5))
        };
        let by_lag = [class(0.0), class(1.0), class(2.0)];
        RawStats { by_lag, loss: seed, kl_start: 2.0 * seed, surprisal: 3.0 * seed }
    }

    #[test]
    fn summing_vectors_over_ranks_equals_adding() {
        let ranks = [stats(1.0), stats(4.0), stats(2.0)];
        let mut sum = vec![0.0; ranks[0].to_vec(0, 3).len()];
        let mut added = RawStats::default();
        for (rank, stats) in ranks.iter().enumerate() {
            sum.iter_mut().zip(stats.to_vec(rank, 3)).for_each(|(sum, value)| *sum += value);
            added.add(stats);
        }
        assert_eq!(RawStats::from_vec(&sum, 3).unwrap(), added);
        assert_eq!(added.by_lag[1].largest, 6.0);
        assert_eq!(added.total().largest, 10.0);
        assert!(RawStats::from_vec(&sum, 2).is_err());
    }

    #[test]
    fn means_are_zero_without_tokens_and_right_with() {
        let none = RawStats::default();
        assert_eq!((none.mean_loss(), none.total().effective_share()), (0.0, 0.0));
        let sums = [4.0, 2.0, 4.0, 8.0, 1.0, 3.0];
        let class = LagStats::from_sums(sums, 0.5);
        assert_eq!(class.effective_share(), 0.5);
        assert_eq!(class.mismatch_kl(), 0.5);
        assert_eq!((class.clipped_share(), class.truncated_share()), (0.25, 0.75));
    }
}
