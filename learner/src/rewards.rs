//! From verdicts to one weight per rollout, over a whole step: truncation, the shuffling control,
//! group advantages. How texts are graded is `tandem`'s, the estimators are `grpo`'s.

use grpo::{Estimator, GroupWeights};
use settings::{Objective, Settings, TruncatedReward};
use tandem::RandomKey;
use types::{Author, Finish, Hash, RolloutGroup};

use crate::collective::Collective;

/// What a rollout earned; nothing where it is masked out.
#[must_use]
pub fn earned(rollout: &types::Rollout, truncated: TruncatedReward) -> Option<f32> {
    let parts = rollout.parts();
    match (parts.finish, truncated) {
        (Finish::End, _) => Some(parts.verdict.reward),
        (Finish::Truncated, TruncatedReward::Zero) => Some(0.0),
        (Finish::Truncated, TruncatedReward::Mask) => None,
    }
}

/// The rewards of all rollouts of a step, whichever rank has them.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardTable {
    first_group: u64,
    samples: usize,
    /// Value and presence (1 or 0), rollout by rollout: sums over ranks fill it up.
    slots: Vec<f64>,
}

impl RewardTable {
    /// # Errors
    /// A group outside the step, or another number of samples than training writes.
    pub fn new(groups: &[RolloutGroup], step: u32, settings: &Settings) -> anyhow::Result<Self> {
        let samples = settings.train.samples_per_problem as usize;
        let step_groups = settings.groups_per_step();
        let first_group = u64::from(step) * step_groups;
        let rollouts = usize::try_from(step_groups)? * samples;
        let mut table = Self { first_group, samples, slots: vec![0.0; 2 * rollouts] };
        for group in groups {
            anyhow::ensure!(
                group.samples.len() == samples
                    && (first_group..first_group + step_groups).contains(&group.group.0),
                "group {} with {} samples is not one of step {step}",
                group.group,
                group.samples.len()
            );
            let start = table.start(group);
            for (index, rollout) in group.samples.iter().enumerate() {
                if let Some(reward) = earned(rollout, settings.reward.truncated) {
                    table.slots[2 * (start + index)] = f64::from(reward);
                    table.slots[2 * (start + index) + 1] = 1.0;
                }
            }
        }
        Ok(table)
    }

    /// Brings in the other ranks' rewards.
    ///
    /// # Errors
    /// The collective's.
    pub fn all_reduce(&mut self, collective: &mut dyn Collective) -> anyhow::Result<()> {
        collective.all_reduce_sum_f64(&mut self.slots)
    }

    /// Permutes the rewards over the whole step (Fisher and Yates), the same on every rank. A
    /// control: what is then learnt does not come from the reward.
    pub fn shuffle(&mut self, seed: u64) {
        let name = format!("reward.shuffle {seed} {}", self.first_group);
        let key = RandomKey::from_bytes(Hash::of(name.as_bytes()).0);
        let present: Vec<usize> =
            (0..self.slots.len() / 2).filter(|i| self.slots[2 * i + 1] > 0.0).collect();
        for last in (1..present.len()).rev() {
            let other = (key.uniform(last as u64) * (last + 1) as f64) as usize;
            self.slots.swap(2 * present[last], 2 * present[other.min(last)]);
        }
    }

    /// Of the rollouts that count.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let count: f64 = self.slots.iter().skip(1).step_by(2).sum();
        let sum: f64 = self.slots.iter().step_by(2).sum();
        if count > 0.0 { sum / count } else { 0.0 }
    }

    /// Of one group's samples, in order.
    #[must_use]
    pub fn of(&self, group: &RolloutGroup) -> Vec<Option<f32>> {
        let start = self.start(group);
        let slots = &self.slots[2 * start..2 * (start + self.samples)];
        slots
            .as_chunks()
            .0
            .iter()
            .map(|[value, has]| (*has > 0.0).then_some(*value as f32))
            .collect()
    }

    fn start(&self, group: &RolloutGroup) -> usize {
        (group.group.0 - self.first_group) as usize * self.samples
    }
}

/// The estimator of an objective; supervised training has none.
#[must_use]
pub fn estimator(objective: Objective) -> Option<Estimator> {
    match objective {
        Objective::Grpo => Some(Estimator::Grpo),
        Objective::Reinforce => Some(Estimator::ReinforceSuccesses),
        Objective::Sft => None,
    }
}

/// One weight per sample; masked ones weigh nothing and are in no mean.
#[must_use]
pub fn group_weights(rewards: &[Option<f32>], estimator: Estimator) -> GroupWeights {
    let present: Vec<f32> = rewards.iter().copied().flatten().collect();
    let GroupWeights { weights, zero_variance } = estimator.weights(&present);
    let mut weights = weights.into_iter();
    let weights = rewards.iter().map(|reward| match reward {
        Some(_) => weights.next().unwrap_or(0.0),
        None => 0.0,
    });
    GroupWeights { weights: weights.collect(), zero_variance }
}

/// Sums over all rollouts of a step, those without weight included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub rollouts: f64,
    pub truncated: f64,
    pub strong_tokens: f64,
    pub weak_tokens: f64,
    pub jargon: f64,
    pub jargon_of: f64,
    /// Rollouts that the weak model wrote in, and those of them with the right answer.
    pub handed_off: f64,
    pub handed_off_right: f64,
    /// Σ over strong tokens of the step minus the step of the weights that sampled it.
    pub staleness: f64,
    pub groups_trained: f64,
    pub groups_zero_variance: f64,
}

impl Tally {
    #[must_use]
    pub fn of(groups: &[RolloutGroup], step: u32) -> Self {
        let mut tally = Self::default();
        for rollout in groups.iter().flat_map(|group| &group.samples) {
            let parts = rollout.parts();
            tally.rollouts += 1.0;
            tally.truncated += f64::from(u8::from(parts.finish == Finish::Truncated));
            let weak_tokens = rollout.count(Author::Weak);
            tally.weak_tokens += weak_tokens as f64;
            if weak_tokens > 0 {
                tally.handed_off += 1.0;
                tally.handed_off_right += f64::from(u8::from(parts.verdict.correct));
            }
            tally.jargon += f64::from(parts.verdict.jargon.count);
            tally.jargon_of += f64::from(parts.verdict.jargon.of);
            for (author, version) in parts.authors.iter().zip(&parts.versions) {
                if *author == Author::Strong {
                    tally.strong_tokens += 1.0;
                    tally.staleness += f64::from(step.saturating_sub(version.step));
                }
            }
        }
        tally
    }

    /// # Errors
    /// The collective's.
    pub fn all_reduce(&mut self, collective: &mut dyn Collective) -> anyhow::Result<()> {
        let mut sums = [
            self.rollouts,
            self.truncated,
            self.strong_tokens,
            self.weak_tokens,
            self.jargon,
            self.jargon_of,
            self.handed_off,
            self.handed_off_right,
            self.staleness,
            self.groups_trained,
            self.groups_zero_variance,
        ];
        collective.all_reduce_sum_f64(&mut sums)?;
        let [rollouts, truncated, strong_tokens, weak_tokens, jargon, rest @ ..] = sums;
        let [jargon_of, handed_off, handed_off_right, rest @ ..] = rest;
        let [staleness, groups_trained, groups_zero_variance] = rest;
        *self = Self {
            rollouts,
            truncated,
            strong_tokens,
            weak_tokens,
            jargon,
            jargon_of,
            handed_off,
            handed_off_right,
            staleness,
            groups_trained,
            groups_zero_variance,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Miniature, with_parts};

    #[test]
    fn truncated_rollouts_earn_nothing_or_are_left_out() {
        let world = Miniature::small();
        let rollout = with_parts(world.group(0, 0), 0, |p| {
            p.finish = Finish::Truncated;
            p.verdict.reward = 1.0;
        });
        let rollout = &rollout.samples[0];
        assert_eq!(earned(rollout, TruncatedReward::Zero), Some(0.0));
        assert_eq!(earned(rollout, TruncatedReward::Mask), None);
    }

    #[test]
    fn masked_samples_weigh_nothing_and_are_in_no_mean() {
        let group = group_weights(&[Some(1.0), None, Some(0.0)], Estimator::Grpo);
        assert_eq!(group.weights[1], 0.0);
        assert_eq!(group.weights[0], -group.weights[2]);
        assert!(group.weights[0] > 0.99 && !group.zero_variance);
        let masked = group_weights(&[None, None], Estimator::Grpo);
        assert!(masked.is_empty() && masked.zero_variance);
    }

    #[test]
    fn handoffs_succeed_where_the_weak_model_wrote_and_the_answer_is_right() {
        let world = Miniature::small();
        let mut groups = vec![world.group(0, 0)];
        let samples = groups[0].samples.len();
        for sample in 0..samples {
            let group = groups.remove(0);
            groups.push(with_parts(group, sample, |p| p.verdict.correct = sample == 0));
        }
        let wrote = |sample: usize| groups[0].samples[sample].count(Author::Weak) > 0;
        let handed_off = (0..samples).filter(|sample| wrote(*sample)).count();
        let tally = Tally::of(&groups, 0);
        assert_eq!(tally.handed_off, handed_off as f64);
        assert_eq!(tally.handed_off_right, f64::from(u8::from(wrote(0))));
        assert!(handed_off > 0, "the weak model wrote in none of them");
    }

    #[test]
    fn shuffling_permutes_over_the_whole_step_and_follows_the_seed() {
        let world = Miniature::small();
        let groups: Vec<_> = (0..2)
            .map(|id| {
                let mut group = world.group(id, 0);
                for sample in 0..group.samples.len() {
                    let reward = (10 * id + sample as u64) as f32;
                    group = with_parts(group, sample, |p| p.verdict.reward = reward);
                }
                group
            })
            .collect();
        let table = RewardTable::new(&groups, 0, &world.settings).unwrap();
        let all = |t: &RewardTable| -> Vec<f32> {
            groups.iter().flat_map(|g| t.of(g)).map(|r| r.expect("nothing is masked")).collect()
        };
        let (mut one, mut same, mut other) = (table.clone(), table.clone(), table.clone());
        one.shuffle(1);
        same.shuffle(1);
        other.shuffle(2);
        assert_eq!(one, same);
        assert_ne!(all(&one), all(&other));
        assert_ne!(all(&one), all(&table));
        let sorted = |mut values: Vec<f32>| {
            values.sort_by(f32::total_cmp);
            values
        };
        assert_eq!(sorted(all(&one)), sorted(all(&table)));
        assert_eq!(one.mean(), table.mean());
    }
}
