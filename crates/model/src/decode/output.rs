//! What a step leaves: the states of the wanted tokens, from which logits are made when they are
//! asked for. All of them at once can be larger than the model: 512 rows of 262,144 in f32 are 512 MiB.

use candle_core::Tensor;

use super::engine::Wanted;
use crate::ModelError;
use crate::draw::{Draw, draw_tokens};
use crate::linear::Linear;
use crate::sampler::{SampleError, Sampled};

/// Logits that exist at once while tokens are drawn, in bytes of f32: on a host, where a model of
/// 262,144 tokens then takes 64 rows at a time, and on a device, where few large products are wanted.
const HOST_LOGIT_BYTES: usize = 64 << 20;
const DEVICE_LOGIT_BYTES: usize = 512 << 20;

#[derive(Debug)]
pub struct StepOutput {
    /// One per row of the logits.
    pub wanted: Vec<Wanted>,
    /// `[n,d]`, after the last norm.
    pub(super) states: Tensor,
    pub(super) head: Linear,
    /// Ids that can be written.
    pub(super) vocab: usize,
}

impl StepOutput {
    /// `[n,V]` of the ids that can be written, one row for each of `wanted`.
    ///
    /// # Errors
    /// A failing device.
    pub fn logits(&self) -> Result<Tensor, ModelError> {
        if self.wanted.is_empty() {
            let (dtype, device) = (self.states.dtype(), self.states.device());
            return Ok(Tensor::zeros((0, self.vocab), dtype, device)?);
        }
        Ok(self.head.logits(&self.states)?)
    }

    /// What came of each draw, in their order: as [`draw_tokens`] of [`Self::logits`], which are made
    /// piece by piece.
    ///
    /// # Errors
    /// A row that is not wanted, a failing device. What is wrong with one draw is its own outcome.
    pub fn draw(
        &self,
        draws: &[Draw<'_>],
    ) -> Result<Vec<Result<Sampled, SampleError>>, ModelError> {
        let bytes = match self.states.device().is_cpu() {
            true => HOST_LOGIT_BYTES,
            false => DEVICE_LOGIT_BYTES,
        };
        let row_bytes = self.vocab.max(1) * size_of::<f32>();
        self.draw_by(draws, (bytes / row_bytes).max(1))
    }

    fn draw_by(
        &self,
        draws: &[Draw<'_>],
        rows_at_once: usize,
    ) -> Result<Vec<Result<Sampled, SampleError>>, ModelError> {
        let rows = self.wanted.len();
        if rows <= rows_at_once || draws.iter().any(|draw| draw.row >= rows) {
            return draw_tokens(&self.logits()?, draws);
        }
        let mut order: Vec<usize> = (0..draws.len()).collect();
        order.sort_by_key(|at| draws[*at].row);
        let mut outcomes = vec![Err(SampleError::Nothing(0)); draws.len()];
        for piece in
            order.chunk_by(|a, b| draws[*a].row / rows_at_once == draws[*b].row / rows_at_once)
        {
            let first = draws[piece[0]].row / rows_at_once * rows_at_once;
            let states = self.states.narrow(0, first, rows_at_once.min(rows - first))?;
            let here: Vec<Draw<'_>> =
                piece.iter().map(|at| Draw { row: draws[*at].row - first, ..draws[*at] }).collect();
            let drawn = draw_tokens(&self.head.logits(&states)?, &here)?;
            for (at, outcome) in piece.iter().zip(drawn) {
                outcomes[*at] = outcome;
            }
        }
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::draw::Pick;
    use crate::linear::Weight;
    use crate::sampler::SamplerSettings;

    #[test]
    fn draws_are_the_same_however_few_rows_have_logits_at_once() {
        let device = Device::Cpu;
        let states = Tensor::arange(0f32, 20.0, &device).unwrap().reshape((5, 4)).unwrap();
        let weight = Tensor::rand(-0.2f32, 0.2, (7, 4), &device).unwrap();
        let wanted = (0..5).map(|position| Wanted { row: 0, position }).collect();
        let head = Linear::new(Weight::Dense(weight), None);
        let output = StepOutput { wanted, states, head, vocab: 7 };
        let settings =
            SamplerSettings { temperature: 1.0, top_p: 1.0, banned: vec![], stops: vec![0] };
        let draw = |row, pick| Draw { row, settings: &settings, pick };
        let draws = [
            draw(4, Pick::Score(3)),
            draw(0, Pick::Draw(0.3)),
            draw(2, Pick::Score(6)),
            draw(4, Pick::Draw(0.9)),
            draw(3, Pick::Score(7)),
        ];
        let whole = draw_tokens(&output.logits().unwrap(), &draws).unwrap();
        assert!(whole[4].is_err() && whole[..4].iter().all(Result::is_ok), "{whole:?}");
        for rows_at_once in [1, 2, 3, 5] {
            let found = output.draw_by(&draws, rows_at_once).unwrap();
            for (found, whole) in found.iter().zip(&whole) {
                match (found, whole) {
                    (Ok(found), Ok(whole)) => {
                        assert_eq!(found.token, whole.token, "{rows_at_once} rows");
                        let apart = (found.logprob - whole.logprob).abs();
                        assert!(apart < 1e-6, "{rows_at_once} rows: {apart}");
                    }
                    _ => assert_eq!(found, whole),
                }
            }
        }
        let outside = output.draw_by(&[draw(5, Pick::Draw(0.5))], 2).unwrap_err().to_string();
        assert!(outside.contains("row 5 is outside the 5 rows"), "{outside}");
        let none = StepOutput {
            wanted: Vec::new(),
            states: Tensor::zeros((0, 4), DType::F32, &device).unwrap(),
            head: output.head.clone(),
            vocab: 7,
        };
        assert_eq!(none.logits().unwrap().dims(), [0, 7]);
        assert!(none.draw(&[]).unwrap().is_empty());
    }
}
