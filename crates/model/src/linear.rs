//! The linear layer: the only place where activations meet a matrix of weights. Which layers there
//! are is not known here.

use candle_core::{Result, Tensor};

use crate::ops;

/// `weight` is `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) adapter: Option<Adapter>,
}

/// A change of low rank to a weight (LoRA, arXiv 2106.09685, eq. 3): W + scale · B·A.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// `[rank, in]`
    pub(crate) a: Tensor,
    /// `[out, rank]`
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
}

impl Linear {
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, adapter: None }
    }

    /// The weight with its adapter in it, without a graph.
    pub(crate) fn merged(&self) -> Result<Tensor> {
        let weight = self.weight.detach();
        let Some(Adapter { a, b, scale }) = &self.adapter else { return Ok(weight) };
        weight + (b.detach().matmul(&a.detach())? * *scale)?
    }

    /// A copy that later writes do not reach, with the outputs of all parts in order.
    pub(crate) fn joined(parts: &[&Self]) -> Result<Self> {
        let weights: Vec<Tensor> = parts.iter().map(|p| p.merged()).collect::<Result<_>>()?;
        let weights: Vec<&Tensor> = weights.iter().collect();
        let biases: Vec<&Tensor> = parts.iter().filter_map(|p| p.bias.as_ref()).collect();
        let join = |tensors: &[&Tensor]| match tensors {
            [only] => only.detach().copy(),
            all => Ok(Tensor::cat(all, 0)?.detach()),
        };
        let bias = (biases.len() == parts.len()).then(|| join(&biases)).transpose()?;
        Ok(Self::new(join(&weights)?, bias))
    }

    /// `[N, in]` to `[N, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight, self.bias.as_ref())?;
        match &self.adapter {
            Some(Adapter { a, b, scale }) => y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * *scale)?,
            None => Ok(y),
        }
    }
}
