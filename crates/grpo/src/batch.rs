//! Weighted rollouts as padded micro-batches: the author mask becomes an index here.
//! Whether a rollout's authors are genuine is checked before, by replaying its schedule.

use candle_core::{Device, Tensor};
use types::{Author, Rollout};

use crate::Error;
use crate::padding::{Padded, Row, pad};

/// One micro-batch: what the model reads, and what the loss needs of each strong token.
#[derive(Clone, Debug)]
pub struct PolicyBatch {
    /// u32, right-padded.
    pub tokens: Tensor, // [B,T]
    /// u32, flat positions in B·T of the predictors: position t−1 predicts the strong token t.
    pub select: Tensor, // [N]
    /// u32, the strong tokens.
    pub targets: Tensor, // [N]
    /// What all of the rollouts were sampled at; log-probabilities have to be taken at the same.
    pub temperature: f32,
    pub columns: TokenColumns,
}

/// One entry per strong token, in the order of `targets`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenColumns {
    pub sampler_logprobs: Vec<f32>,
    /// Advantage or weight of the token's rollout, the same on all of its tokens.
    pub weights: Vec<f32>,
    /// Current step minus the step of the weights that sampled the token.
    pub lags: Vec<u32>,
    /// Row of the batch.
    pub sequences: Vec<u32>,
}

impl TokenColumns {
    #[must_use]
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }
}

impl PolicyBatch {
    /// Rollouts with a weight of exactly 0 or without strong tokens contribute nothing; `None`
    /// where no rollout contributes.
    ///
    /// # Errors
    /// A weight that is not finite, a strong token without prompt, tokens of a later step than
    /// `current_step`, sampling whose log-probabilities cannot be recomputed.
    pub fn build(
        rollouts: &[(&Rollout, f32)],
        current_step: u32,
        device: &Device,
    ) -> Result<Option<Self>, Error> {
        let mut rows = Vec::new();
        let mut columns = TokenColumns::default();
        let mut temperature = None;
        for (index, (rollout, weight)) in rollouts.iter().enumerate() {
            if !weight.is_finite() {
                return Err(Error::Weight { rollout: index, value: *weight });
            }
            if strong_tokens(rollout, *weight) == 0 {
                continue;
            }
            check_sampling(index, rollout, &mut temperature)?;
            let row = strong_row(rollout);
            for target in &row.targets {
                let sampled = rollout.parts().versions[*target].step;
                let lag = current_step.checked_sub(sampled).ok_or({
                    Error::FromTheFuture { rollout: index, sampled, current: current_step }
                })?;
                columns.sampler_logprobs.push(rollout.parts().logprobs[*target]);
                columns.weights.push(*weight);
                columns.lags.push(lag);
                columns.sequences.push(rows.len() as u32);
            }
            rows.push(row);
        }
        let Some(temperature) = temperature else { return Ok(None) };
        let Padded { tokens, select, targets } = pad(&rows, device)?;
        Ok(Some(Self { tokens, select, targets, temperature, columns }))
    }

    /// Splits a step's rollouts into micro-batches of at most `max_tokens` padded tokens each;
    /// indices into `rollouts`, without those that contribute nothing.
    #[must_use]
    pub fn plan(rollouts: &[(&Rollout, f32)], max_tokens: usize) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = rollouts.iter().map(|(r, w)| training_len(r, *w)).collect();
        plan_micro_batches(&lengths, max_tokens)
    }
}

/// How many tokens a rollout has in the loss and in its denominator.
#[must_use]
pub fn strong_tokens(rollout: &Rollout, weight: f32) -> usize {
    if weight == 0.0 { 0 } else { rollout.count(Author::Strong) }
}

/// How many of a rollout's tokens the training forward reads: all before its last strong token.
#[must_use]
pub fn training_len(rollout: &Rollout, weight: f32) -> usize {
    if weight == 0.0 { 0 } else { strong_row(rollout).width() }
}

/// Groups sequences of similar length under a budget of padded tokens (rows × longest row). A
/// sequence that is longer than the budget is a batch of its own; one of length 0 is in none.
/// The same lengths give the same plan.
#[must_use]
pub fn plan_micro_batches(lengths: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).filter(|i| lengths[*i] > 0).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let mut plan = Vec::new();
    let mut rest = order.as_slice();
    while let Some(longest) = rest.first() {
        let rows = (max_tokens / lengths[*longest]).clamp(1, rest.len());
        let (batch, later) = rest.split_at(rows);
        plan.push(batch.to_vec());
        rest = later;
    }
    plan
}

/// The author mask: only tokens that the strong model wrote are learnt, weak ones are environment.
fn strong_row(rollout: &Rollout) -> Row<'_> {
    let parts = rollout.parts();
    let authors = parts.authors.iter().enumerate();
    let targets = authors.filter(|(_, a)| **a == Author::Strong).map(|(t, _)| t).collect();
    Row { tokens: &parts.tokens, targets }
}

/// The importance ratio is exact only where the training forward can reproduce the distribution
/// that was sampled from.
fn check_sampling(
    index: usize,
    rollout: &Rollout,
    batch_temperature: &mut Option<f32>,
) -> Result<(), Error> {
    let sampling = &rollout.parts().sampling;
    let refuse = |what: String| Err(Error::Sampling { rollout: index, what });
    if sampling.top_p < 1.0 {
        return refuse(format!("top-p {}", sampling.top_p));
    }
    if !sampling.banned.is_empty() {
        return refuse(format!("{} banned tokens", sampling.banned.len()));
    }
    let found = sampling.temperature;
    if !(found > 0.0 && found.is_finite()) {
        return refuse(format!("temperature {found}"));
    }
    match *batch_temperature {
        Some(expected) if expected != found => {
            Err(Error::Temperature { rollout: index, found, expected })
        }
        _ => {
            *batch_temperature = Some(found);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{RolloutText, rollout};

    fn build(rollouts: &[(&Rollout, f32)]) -> Result<Option<PolicyBatch>, Error> {
        PolicyBatch::build(rollouts, 5, &Device::Cpu)
    }

    #[test]
    fn strong_tokens_and_their_predictors_are_selected() {
        let a = rollout(RolloutText { authors: "ppswsw", first_token: 10, step: 4 });
        let b = rollout(RolloutText { authors: "pws", first_token: 20, step: 3 });
        let batch = build(&[(&a, 1.5), (&b, -0.5)]).unwrap().unwrap();
        // the trailing weak token of `a` is read by nobody
        assert_eq!(batch.tokens.to_vec2::<u32>().unwrap(), [[10, 11, 12, 13], [20, 21, 0, 0]]);
        assert_eq!(batch.select.to_vec1::<u32>().unwrap(), [1, 3, 5]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [12, 14, 22]);
        assert_eq!(batch.temperature, 1.0);
        let columns = TokenColumns {
            sampler_logprobs: vec![-0.25, -0.5, -0.25],
            weights: vec![1.5, 1.5, -0.5],
            lags: vec![1, 1, 2],
            sequences: vec![0, 0, 1],
        };
        assert_eq!(batch.columns, columns);
    }

    #[test]
    fn flipping_an_author_to_weak_removes_exactly_that_token() {
        let full = rollout(RolloutText { authors: "psss", first_token: 1, step: 5 });
        let flipped = rollout(RolloutText { authors: "psws", first_token: 1, step: 5 });
        let targets = |r| build(&[(r, 1.0)]).unwrap().unwrap().targets.to_vec1::<u32>().unwrap();
        assert_eq!(targets(&full), [2, 3, 4]);
        assert_eq!(targets(&flipped), [2, 4]);
        assert_eq!((strong_tokens(&full, 1.0), strong_tokens(&flipped, 1.0)), (3, 2));
    }

    #[test]
    fn what_has_no_weight_or_no_strong_token_contributes_nothing() {
        let strong = rollout(RolloutText { authors: "pss", first_token: 1, step: 5 });
        let weak = rollout(RolloutText { authors: "pww", first_token: 1, step: 5 });
        assert!(build(&[(&strong, 0.0), (&weak, 1.0)]).unwrap().is_none());
        assert_eq!((training_len(&strong, 0.0), training_len(&weak, 1.0)), (0, 0));
        let batch = build(&[(&weak, 1.0), (&strong, 0.0), (&strong, 2.0)]).unwrap().unwrap();
        assert_eq!(batch.tokens.dims(), [1, 2]);
        assert_eq!(batch.columns.sequences, [0, 0]);
        let rollouts = [(&weak, 1.0), (&strong, 0.0), (&strong, 2.0)];
        assert_eq!(PolicyBatch::plan(&rollouts, 64), [[2]]);
    }

    #[test]
    fn unusable_rollouts_are_refused_by_name() {
        let good = rollout(RolloutText { authors: "ps", first_token: 1, step: 5 });
        let refused = |change: &dyn Fn(&mut types::RolloutParts), weight: f32| {
            let mut parts = good.parts().clone();
            change(&mut parts);
            let changed = Rollout::new(parts).unwrap();
            build(&[(&good, 1.0), (&changed, weight)]).expect_err("must be refused").to_string()
        };
        assert!(refused(&|_| (), f32::NAN).contains("rollout 1"));
        assert!(refused(&|p| p.sampling.top_p = 0.9, 1.0).contains("top-p 0.9"));
        assert!(refused(&|p| p.sampling.banned = vec![3], 1.0).contains("1 banned"));
        assert!(refused(&|p| p.sampling.temperature = 0.0, 1.0).contains("temperature 0"));
        assert!(refused(&|p| p.sampling.temperature = 0.5, 1.0).contains("at temperature 0.5"));
        assert!(refused(&|p| p.versions[1].step = 6, 1.0).contains("step 6"));
        let bare = rollout(RolloutText { authors: "s", first_token: 1, step: 5 });
        assert!(matches!(build(&[(&bare, 1.0)]), Err(Error::NoPrompt { row: 0 })));
    }

    #[test]
    fn micro_batches_are_similar_in_length_and_within_the_budget() {
        let lengths = [3, 10, 0, 4, 9, 40, 3, 2];
        let plan = plan_micro_batches(&lengths, 20);
        assert_eq!(plan, [vec![5], vec![1, 4], vec![3, 0, 6, 7]]);
        assert_eq!(plan_micro_batches(&[0, 0], 20), Vec::<Vec<usize>>::new());
    }
}
