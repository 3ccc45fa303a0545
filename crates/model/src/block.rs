//! One transformer block, the same for both forwards: where the norms and the residual sums stand.
//! How attention is computed and which products are joined is each forward's own.

use candle_core::{Result, Tensor};

use crate::ops;

/// RMSNorm with its scale, `[d]`.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) eps: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Norms {
    /// Before attention.
    pub(crate) attention: Norm,
    /// Before the feed-forward part.
    pub(crate) mlp: Norm,
}

impl Norm {
    /// Over the last dimension.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
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
    let mixed = attend(&norms.attention.forward(h)?)?;
    let h = match keep {
        Some(keep) => (h.index_select(keep, 0)? + mixed)?,
        None => (h + mixed)?,
    };
    let changed = mlp(&norms.mlp.forward(&h)?)?;
    h + changed
}
