//! From the rewards of one group to one weight per rollout.
//! Grading is `tandem`'s; dropping and counting groups is the learner's.

/// Added to the standard deviation, so that a group of nearly equal rewards stays bounded.
const STD_OFFSET: f64 = 1e-4;

/// How rewards become weights on the log-probabilities of a rollout's strong tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimator {
    /// Group-relative advantages ([`group_advantages`]).
    #[default]
    Grpo,
    /// REINFORCE with failures discarded (the first tandem paper): 1 for a reward above 0,
    /// otherwise 0, so that a failure's tokens are neither in the loss nor in its denominator.
    ReinforceSuccesses,
}

/// One weight per rollout of a group, in the order of the rewards.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupWeights {
    pub weights: Vec<f32>,
    /// All rewards are equal. Under [`Estimator::Grpo`] every weight is then exactly 0.
    pub zero_variance: bool,
}

impl GroupWeights {
    /// Nothing is learnt from this group: it has no token in loss or denominator.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights.iter().all(|weight| *weight == 0.0)
    }
}

impl Estimator {
    #[must_use]
    pub fn weights(self, rewards: &[f32]) -> GroupWeights {
        let weights = match self {
            Self::Grpo => group_advantages(rewards),
            Self::ReinforceSuccesses => {
                rewards.iter().map(|reward| if *reward > 0.0 { 1.0 } else { 0.0 }).collect()
            }
        };
        GroupWeights { weights, zero_variance: zero_variance(rewards) }
    }
}

/// Whether all rewards are equal, compared as they are: a computed variance of equal rewards can
/// be above 0 by rounding (three times 0.1), and a group of one has none.
#[must_use]
pub fn zero_variance(rewards: &[f32]) -> bool {
    rewards.iter().all(|reward| *reward == rewards[0])
}

/// (r − mean) / (std + 1e-4) with the *population* standard deviation (divided by the number of
/// samples): GRPO, DeepSeekMath, arXiv 2402.03300, §4.1.2, which leaves the choice open. Exactly 0
/// throughout where all rewards are equal.
#[must_use]
pub fn group_advantages(rewards: &[f32]) -> Vec<f32> {
    if zero_variance(rewards) {
        return vec![0.0; rewards.len()];
    }
    let count = rewards.len() as f64;
    let mean = rewards.iter().map(|r| f64::from(*r)).sum::<f64>() / count;
    let square = |r: &f32| (f64::from(*r) - mean).powi(2);
    let std = (rewards.iter().map(square).sum::<f64>() / count).sqrt();
    rewards.iter().map(|r| ((f64::from(*r) - mean) / (std + STD_OFFSET)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_match_the_hand_computed_ones() {
        // mean 0.25, population variance 0.1875
        let std = 0.1875_f64.sqrt() + 1e-4;
        let expected = [0.75 / std, -0.25 / std, -0.25 / std, -0.25 / std];
        for (found, expected) in group_advantages(&[1.0, 0.0, 0.0, 0.0]).iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} for {expected}");
        }
    }

    #[test]
    fn equal_rewards_are_found_exactly() {
        for rewards in [vec![], vec![0.7], vec![0.1; 3], vec![1.0; 8]] {
            let group = Estimator::Grpo.weights(&rewards);
            assert!(group.zero_variance && group.is_empty(), "{rewards:?}");
            assert_eq!(group.weights, vec![0.0; rewards.len()]);
        }
        let close = [0.1, 0.1 + f32::EPSILON, 0.1];
        assert!(!zero_variance(&close) && !Estimator::Grpo.weights(&close).is_empty());
    }

    #[test]
    fn reinforce_keeps_successes_only() {
        let mixed = Estimator::ReinforceSuccesses.weights(&[0.0, 1.0, -1.0, 0.5]);
        assert_eq!(mixed.weights, [0.0, 1.0, 0.0, 1.0]);
        assert!(!mixed.zero_variance && !mixed.is_empty());
        let solved = Estimator::ReinforceSuccesses.weights(&[1.0, 1.0]);
        assert!(solved.zero_variance && !solved.is_empty(), "successes teach without variance");
        assert!(Estimator::ReinforceSuccesses.weights(&[0.0, 0.0]).is_empty());
    }
}
