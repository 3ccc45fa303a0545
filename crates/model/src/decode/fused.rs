//! The decoder's weights as the engine multiplies them: copied, so that later writes to variables
//! do not reach a running batch, and joined where one product serves several layers.

use candle_core::{Result, Tensor};

use crate::Decoder;
use crate::block::{Norm, Norms};
use crate::linear::Linear;

pub(crate) struct FusedWeights {
    pub(crate) embedding: Tensor,
    pub(crate) layers: Vec<FusedLayer>,
    pub(crate) norm: Norm,
    pub(crate) head: Linear,
}

pub(crate) struct FusedLayer {
    pub(crate) norms: Norms,
    /// Queries, keys, values.
    pub(crate) qkv: Linear,
    pub(crate) o: Linear,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

impl FusedWeights {
    pub(crate) fn new(decoder: &Decoder) -> Result<Self> {
        let layers = decoder.layers().iter().map(|layer| {
            Ok(FusedLayer {
                norms: Norms {
                    attention: own_norm(&layer.norms.attention)?,
                    mlp: own_norm(&layer.norms.mlp)?,
                },
                qkv: Linear::joined(&[&layer.q, &layer.k, &layer.v])?,
                o: Linear::joined(&[&layer.o])?,
                gate_up: Linear::joined(&[&layer.gate, &layer.up])?,
                down: Linear::joined(&[&layer.down])?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            embedding: own(decoder.embedding())?,
            norm: own_norm(decoder.norm())?,
            head: Linear::joined(&[decoder.head()])?,
        })
    }
}

fn own(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().copy()
}

fn own_norm(norm: &Norm) -> Result<Norm> {
    Ok(Norm { weight: own(&norm.weight)?, eps: norm.eps })
}
