//! The linear layer: the only place where activations meet a matrix of weights. Which layers there
//! are is not known here.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use crate::ops;
use crate::quantized::QuantizedMatrix;

#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Tensor>,
    pub(crate) adapter: Option<Adapter>,
}

/// `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    Dense(Tensor),
    /// One above the other. They are not trained: no gradient passes them.
    Quantized(Vec<Arc<QuantizedMatrix>>),
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
    pub(crate) fn new(weight: Weight, bias: Option<Tensor>) -> Self {
        Self { weight, bias, adapter: None }
    }

    /// The weight with its adapter in it, of the adapter's type, without a graph.
    pub(crate) fn merged(&self) -> Result<Tensor> {
        let weight = self.weight.dense()?.detach();
        let Some(Adapter { a, b, scale }) = &self.adapter else { return Ok(weight) };
        weight.to_dtype(a.dtype())? + (b.detach().matmul(&a.detach())? * *scale)?
    }

    /// With the outputs of all parts in order; later writes to variables do not reach it. What is
    /// never written, such as quantised weights, is shared.
    pub(crate) fn joined(parts: &[&Self]) -> Result<Self> {
        let weight = |part: &&Self| match &part.adapter {
            Some(_) => Ok(Weight::Dense(part.merged()?)),
            None => Ok(part.weight.clone()),
        };
        let weights: Vec<Weight> = parts.iter().map(weight).collect::<Result<_>>()?;
        let biases: Vec<&Tensor> = parts.iter().filter_map(|p| p.bias.as_ref()).collect();
        let bias = (biases.len() == parts.len()).then(|| join(&biases)).transpose()?;
        Ok(Self::new(Weight::joined(&weights)?, bias))
    }

    /// As [`Self::forward`], for a head: logits of half types are f32, and only the states and
    /// weights that they are made of are rounded.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        if x.dtype().size_in_bytes() >= 4 {
            return self.forward(x);
        }
        let weight = self.weight.dense()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() && self.bias.is_none() {
            return crate::cuda::logits(x, weight);
        }
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let bias = self.bias.as_ref().map(wide).transpose()?;
        Self::new(Weight::Dense(wide(weight)?), bias).forward(&wide(x)?)
    }

    /// `[N, in]` to `[N, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // Weights that are kept wider than what is computed in are rounded here; gradients reach them.
        let own = |weight: &Tensor| weight.to_dtype(x.dtype());
        let bias = self.bias.as_ref().map(own).transpose()?;
        let bias = bias.as_ref();
        match (&self.weight, &self.adapter) {
            (Weight::Dense(weight), None) => ops::linear(x, &own(weight)?, bias),
            (Weight::Quantized(parts), None) => quantized(x, parts, bias),
            (weight, Some(Adapter { a, b, scale })) => {
                let weight = own(weight.dense()?)?;
                ops::adapted_linear(x, (&weight, bias), (&own(a)?, &own(b)?), *scale)
            }
        }
    }
}

impl Weight {
    /// # Errors
    /// A quantised weight.
    pub(crate) fn dense(&self) -> Result<&Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight),
            Self::Quantized(_) => bail!("a quantised weight is decoded with, not trained"),
        }
    }

    /// The rows `ids`, `[N]` (u32): `[N, in]`.
    pub(crate) fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.index_select(ids, 0),
            Self::Quantized(parts) => only(parts)?.lookup(ids),
        }
    }

    /// The first `rows` of them.
    pub(crate) fn first_rows(&self, rows: usize) -> Result<Self> {
        match self {
            Self::Dense(weight) if weight.dim(0)? == rows => Ok(self.clone()),
            Self::Dense(weight) => Ok(Self::Dense(weight.narrow(0, 0, rows)?)),
            Self::Quantized(parts) => {
                Ok(Self::Quantized(vec![Arc::new(only(parts)?.first_rows(rows)?)]))
            }
        }
    }

    /// See [`Linear::joined`].
    pub(crate) fn joined(parts: &[Self]) -> Result<Self> {
        if let [Self::Quantized(_), ..] = parts {
            let quantized = |part: &Self| match part {
                Self::Quantized(parts) => Ok(parts.clone()),
                Self::Dense(_) => bail!("dense and quantised parts are not joined"),
            };
            let parts: Vec<_> = parts.iter().map(quantized).collect::<Result<_>>()?;
            return Ok(Self::Quantized(parts.concat()));
        }
        let parts: Vec<&Tensor> = parts.iter().map(Self::dense).collect::<Result<_>>()?;
        Ok(Self::Dense(join(&parts)?))
    }
}

fn only(parts: &[Arc<QuantizedMatrix>]) -> Result<&QuantizedMatrix> {
    match parts {
        [only] => Ok(only),
        parts => bail!("{} matrices are no table to look up in", parts.len()),
    }
}

fn quantized(x: &Tensor, parts: &[Arc<QuantizedMatrix>], bias: Option<&Tensor>) -> Result<Tensor> {
    let outputs = parts.iter().map(|part| part.forward(x)).collect::<Result<Vec<_>>>()?;
    let y = match outputs.as_slice() {
        [only] => only.clone(),
        all => Tensor::cat(all, 1)?,
    };
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

fn join(tensors: &[&Tensor]) -> Result<Tensor> {
    match tensors {
        [only] if only.track_op() => only.detach().copy(),
        [only] => Ok((*only).clone()),
        all => Ok(Tensor::cat(all, 0)?.detach()),
    }
}
