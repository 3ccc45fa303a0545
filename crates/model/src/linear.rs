//! The linear layer: the only place where activations meet a matrix of weights. Which layers there
//! are is not known here.

use candle_core::{Result, Tensor};

/// `weight` is `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    /// A copy that later writes do not reach, with the outputs of all parts in order.
    pub(crate) fn joined(parts: &[&Self]) -> Result<Self> {
        let weights: Vec<&Tensor> = parts.iter().map(|p| &p.weight).collect();
        let biases: Vec<&Tensor> = parts.iter().filter_map(|p| p.bias.as_ref()).collect();
        let join = |tensors: &[&Tensor]| match tensors {
            [only] => only.detach().copy(),
            all => Ok(Tensor::cat(all, 0)?.detach()),
        };
        let bias = (biases.len() == parts.len()).then(|| join(&biases)).transpose()?;
        Ok(Self { weight: join(&weights)?, bias })
    }

    /// `[N, in]` to `[N, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
