//! Supervised fine-tuning: examples as micro-batches, and the mean negative log-likelihood.
//! Where the examples come from and how prompts are written is decided outside.

use candle_core::{Device, Tensor};
use types::TokenId;

use crate::Error;
use crate::loss::{to_host, with_value_and_slopes};
use crate::padding::{Padded, Row, pad};

/// A text of which the tokens after the prompt are imitated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub tokens: Vec<TokenId>,
    pub prompt_len: usize,
}

impl Example {
    /// How many tokens it has in the loss and in its denominator.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.tokens.len().saturating_sub(self.prompt_len)
    }

    /// How many tokens the training forward reads; see [`crate::plan_micro_batches`].
    #[must_use]
    pub fn training_len(&self) -> usize {
        if self.target_count() == 0 { 0 } else { self.tokens.len() - 1 }
    }

    fn row(&self) -> Row<'_> {
        Row { tokens: &self.tokens, targets: (self.prompt_len..self.tokens.len()).collect() }
    }
}

/// One micro-batch, u32 throughout, laid out as in [`crate::PolicyBatch`].
#[derive(Clone, Debug)]
pub struct SftBatch {
    pub tokens: Tensor,  // [B,T]
    pub select: Tensor,  // [N]
    pub targets: Tensor, // [N]
}

impl SftBatch {
    /// `None` where no example has a token after its prompt.
    ///
    /// # Errors
    /// An example without prompt.
    pub fn build(examples: &[&Example], device: &Device) -> Result<Option<Self>, Error> {
        let useful = examples.iter().filter(|example| example.target_count() > 0);
        let rows: Vec<Row<'_>> = useful.map(|example| example.row()).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let Padded { tokens, select, targets } = pad(&rows, device)?;
        Ok(Some(Self { tokens, select, targets }))
    }
}

#[derive(Clone, Debug)]
pub struct SftOutput {
    /// Already divided by the denominator.
    pub loss: Tensor, // []
    /// Σ −logp over the micro-batch, before the denominator.
    pub nll: f64,
    pub tokens: usize,
}

/// Mean negative log-likelihood; `denominator` is the count of targets over all micro-batches and
/// ranks of the step.
///
/// # Errors
/// A log-probability that is not finite, a denominator that is not above 0.
pub fn sft_loss(logprobs: &Tensor, denominator: f64) -> Result<SftOutput, Error> {
    if !(denominator > 0.0 && denominator.is_finite()) {
        return Err(Error::Denominator(denominator));
    }
    let tokens = logprobs.elem_count();
    let nll = -to_host("log-probability", logprobs, tokens)?.iter().sum::<f64>();
    let slopes = vec![-1.0 / denominator; tokens];
    let loss = with_value_and_slopes(logprobs, nll / denominator, slopes)?;
    Ok(SftOutput { loss, nll, tokens })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn prompts_are_read_but_not_imitated() {
        let long = Example { tokens: vec![1, 2, 3, 4], prompt_len: 2 };
        let empty = Example { tokens: vec![1, 2], prompt_len: 2 };
        let short = Example { tokens: vec![5, 6], prompt_len: 1 };
        let batch = SftBatch::build(&[&long, &empty, &short], &Device::Cpu).unwrap().unwrap();
        assert_eq!(batch.tokens.to_vec2::<u32>().unwrap(), [[1, 2, 3], [5, 0, 0]]);
        assert_eq!(batch.select.to_vec1::<u32>().unwrap(), [1, 2, 3]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [3, 4, 6]);
        assert_eq!((long.training_len(), empty.training_len(), short.training_len()), (3, 0, 1));
        assert_eq!((long.target_count(), empty.target_count(), short.target_count()), (2, 0, 1));
        assert!(SftBatch::build(&[&empty], &Device::Cpu).unwrap().is_none());
        let bare = Example { tokens: vec![1], prompt_len: 0 };
        assert!(matches!(SftBatch::build(&[&bare], &Device::Cpu), Err(Error::NoPrompt { row: 0 })));
    }

    #[test]
    fn loss_and_gradient_are_divided_by_the_global_count() {
        let logprobs = Var::new(&[-1.0_f64, -3.0], &Device::Cpu).unwrap();
        let output = sft_loss(&logprobs, 8.0).unwrap();
        assert_eq!((output.nll, output.tokens), (4.0, 2));
        assert_eq!(output.loss.to_scalar::<f64>().unwrap(), 0.5);
        let gradient = output.loss.backward().unwrap().remove(&logprobs).unwrap();
        assert_eq!(gradient.to_vec1::<f64>().unwrap(), [-0.125, -0.125]);
        assert!(matches!(sft_loss(&logprobs, 0.0), Err(Error::Denominator(_))));
        let broken = Tensor::new(&[-1.0_f32, f32::NAN], &Device::Cpu).unwrap();
        assert!(sft_loss(&broken, 2.0).unwrap_err().to_string().contains("token 1 is NaN"));
    }
}
