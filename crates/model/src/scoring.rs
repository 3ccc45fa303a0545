//! Log-probabilities of chosen tokens without the whole logits. What losses make of them is decided
//! elsewhere.

use candle_core::Tensor;

use crate::ops::{self, HeadPlan};
use crate::train::check_temperature;
use crate::{Decoder, ModelError};

/// How chosen tokens are scored.
#[derive(Clone, Debug)]
pub struct Scoring {
    pub temperature: f64,
    /// A target among them counts the probability of all of them, as the sampler does.
    pub stops: Vec<u32>,
    /// Positions whose logits are held at once.
    pub chunk_tokens: usize,
}

impl Decoder {
    /// Log-probability `[N]` of each target `[N]` (u32) at the selected positions; `tokens` and
    /// `select` as in [`Self::logits`]. Equal to [`crate::logprobs`] of the logits, but logits are
    /// held for `chunk_tokens` positions at a time, in the backward pass as well.
    ///
    /// # Errors
    /// As [`Self::logits`]; a temperature that is not positive, targets outside the vocabulary.
    pub fn logprobs(
        &self,
        tokens: &Tensor,
        select: &Tensor,
        targets: &Tensor,
        scoring: &Scoring,
    ) -> Result<Tensor, ModelError> {
        let plan = self.head_plan(select, targets, scoring)?;
        match self.prepare(tokens, select)? {
            Some(batch) => {
                Ok(ops::head_logprobs(&self.hidden(&batch)?, self.head_matrix()?, plan)?)
            }
            None => Ok(Tensor::zeros(0, self.dtype(), self.device())?),
        }
    }

    pub(crate) fn head_plan(
        &self,
        select: &Tensor,
        targets: &Tensor,
        scoring: &Scoring,
    ) -> Result<HeadPlan, ModelError> {
        check_temperature(scoring.temperature)?;
        let ids = self.config().ids;
        let (positions, targets) = (select.elem_count(), targets.to_vec1::<u32>()?);
        if positions != targets.len() {
            let what = format!("{} targets for {positions} selected positions", targets.len());
            return Err(ModelError::Input(what));
        }
        if let Some(id) = targets.iter().chain(&scoring.stops).find(|id| **id as usize >= ids) {
            return Err(ModelError::Input(format!("target {id} is outside the {ids} tokens")));
        }
        Ok(HeadPlan {
            targets: targets.into(),
            stops: scoring.stops.as_slice().into(),
            temperature: scoring.temperature,
            ids,
            chunk_rows: scoring.chunk_tokens.max(1),
        })
    }
}
