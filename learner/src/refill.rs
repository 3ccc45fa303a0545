//! Which groups are dealt again with another problem (`train.refill`): those that teach nothing,
//! each once, so that a step writes up to twice its groups. What takes their place is the
//! coordinator's choice.

use grpo::Estimator;
use settings::{Settings, TruncatedReward};
use types::RolloutGroup;

use crate::rewards::{earned, estimator, group_weights};

/// The judge of a run with `train.refill`.
#[derive(Clone, Copy, Debug)]
pub struct Refill {
    truncated: TruncatedReward,
    estimator: Estimator,
}

impl Refill {
    /// Nothing where the setting is off or nothing is rewarded.
    #[must_use]
    pub fn new(settings: &Settings) -> Option<Self> {
        let estimator = estimator(settings.train.objective)?;
        let truncated = settings.reward.truncated;
        settings.train.refill.then_some(Self { truncated, estimator })
    }

    /// Whether another problem is to take the group's place. A replacement stays whatever it
    /// teaches.
    #[must_use]
    pub fn replaces(&self, group: &RolloutGroup) -> bool {
        let first = group.key_group == group.group;
        let rewards: Vec<Option<f32>> =
            group.samples.iter().map(|rollout| earned(rollout, self.truncated)).collect();
        first && group_weights(&rewards, self.estimator).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use settings::Objective;
    use types::GroupId;

    use super::*;
    use crate::fixtures::{Miniature, with_parts};

    fn rewarded(world: &Miniature, key: GroupId, rewards: &[f32]) -> RolloutGroup {
        let group = world.group_drawn_as(GroupId(0), key, 0);
        assert_eq!(group.samples.len(), rewards.len());
        rewards.iter().enumerate().fold(group, |group, (sample, reward)| {
            with_parts(group, sample, |parts| parts.verdict.reward = *reward)
        })
    }

    #[test]
    fn what_teaches_nothing_is_replaced_once() {
        let world = Miniature::small();
        let mut settings = Settings::clone(&world.settings);
        assert!(Refill::new(&settings).is_none(), "off by default");
        settings.train.refill = true;
        let samples = settings.train.samples_per_problem as usize;
        let (all, none) = (vec![1.0; samples], vec![0.0; samples]);
        let mut mixed = none.clone();
        mixed[0] = 1.0;
        let own = GroupId(0);
        let judge = |settings: &Settings, key, rewards: &[f32]| {
            Refill::new(settings).unwrap().replaces(&rewarded(&world, key, rewards))
        };
        assert!(judge(&settings, own, &all) && judge(&settings, own, &none));
        assert!(!judge(&settings, own, &mixed));
        assert!(!judge(&settings, own.replacement(), &all), "a replacement stays");
        // Successes teach REINFORCE even where there are no failures.
        settings.train.objective = Objective::Reinforce;
        assert!(!judge(&settings, own, &all) && judge(&settings, own, &none));
        settings.train.objective = Objective::Sft;
        assert!(Refill::new(&settings).is_none());
    }
}
