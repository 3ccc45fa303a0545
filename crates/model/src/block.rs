//! One transformer block, the same for both forwards: where the norms and the residual sums stand.
//! How attention is computed and which products are joined is each forward's own.

use candle_core::{DType, Result, Tensor};

use crate::{ModelConfig, ops};

/// RMSNorm with its scale, `[d]`.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) eps: f64,
    pub(crate) scale: Scale,
}

/// What a norm multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Weight,
    OnePlusWeight,
    /// The weight as it stands: it was made for what is computed in.
    Made,
}

#[derive(Clone, Debug)]
pub(crate) struct Norms {
    /// Before attention.
    pub(crate) attention: Norm,
    /// Before the feed-forward part.
    pub(crate) mlp: Norm,
    /// Of what each of the two gives.
    pub(crate) after: Option<After>,
    /// Of every query and key, `[hd]`.
    pub(crate) heads: Option<HeadNorms>,
}

#[derive(Clone, Debug)]
pub(crate) struct After {
    pub(crate) attention: Norm,
    pub(crate) mlp: Norm,
}

#[derive(Clone, Debug)]
pub(crate) struct HeadNorms {
    pub(crate) q: Norm,
    pub(crate) k: Norm,
}

impl Norm {
    /// Over the last dimension.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.factors(x.dtype())?, self.eps)
    }

    /// For states of `dtype`: weights are rounded to it where they are read, and what is made of them
    /// is not rounded again.
    fn factors(&self, dtype: DType) -> Result<Tensor> {
        if self.scale == Scale::Made {
            return Ok(self.weight.clone());
        }
        let narrow = dtype.size_in_bytes() < 4;
        let weight = self.weight.to_dtype(dtype)?;
        let weight = if narrow { weight.to_dtype(DType::F32)? } else { weight };
        if self.scale == Scale::OnePlusWeight { weight + 1.0 } else { Ok(weight) }
    }

    /// Over each head by itself, `x` is `[N, heads·hd]`.
    pub(crate) fn per_head(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(&x.reshape(((), self.weight.dim(0)?))?)?.reshape(x.shape())
    }

    /// The same norm in a copy that later writes do not reach.
    pub(crate) fn frozen(&self) -> Result<Self> {
        let weight = self.factors(self.weight.dtype())?.detach().copy()?;
        Ok(Self { weight, eps: self.eps, scale: Scale::Made })
    }
}

impl Norms {
    /// See [`Norm::frozen`].
    pub(crate) fn frozen(&self) -> Result<Self> {
        let after = |after: &After| {
            Ok::<_, candle_core::Error>(After {
                attention: after.attention.frozen()?,
                mlp: after.mlp.frozen()?,
            })
        };
        let heads = |heads: &HeadNorms| {
            Ok::<_, candle_core::Error>(HeadNorms { q: heads.q.frozen()?, k: heads.k.frozen()? })
        };
        Ok(Self {
            attention: self.attention.frozen()?,
            mlp: self.mlp.frozen()?,
            after: self.after.as_ref().map(after).transpose()?,
            heads: self.heads.as_ref().map(heads).transpose()?,
        })
    }
}

/// What enters the first block, from rows of the embedding `[N,d]`.
pub(crate) fn enter(rows: Tensor, config: &ModelConfig) -> Result<Tensor> {
    match config.scaled_embedding {
        true => rows * (config.hidden_size as f64).sqrt(),
        false => Ok(rows),
    }
}

/// `h` is `[N,d]`. What comes out is of the tokens `keep`, `[M]`, and of all without it; `attend`
/// takes all `[N,d]` and gives the same `[M,d]`, `mlp` keeps the shape.
pub(crate) fn block(
    h: &Tensor,
    norms: &Norms,
    keep: Option<&Tensor>,
    attend: impl FnOnce(&Tensor) -> Result<Tensor>,
    mlp: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut mixed = attend(&norms.attention.forward(h)?)?;
    if let Some(after) = &norms.after {
        mixed = after.attention.forward(&mixed)?;
    }
    let h = match keep {
        Some(keep) => (h.index_select(keep, 0)? + mixed)?,
        None => (h + mixed)?,
    };
    let mut changed = mlp(&norms.mlp.forward(&h)?)?;
    if let Some(after) = &norms.after {
        changed = after.mlp.forward(&changed)?;
    }
    h + changed
}
