//! The decoder's weights as the engine multiplies them: copied, so that later writes to variables
//! do not reach a running batch, and joined where one product serves several layers.

use candle_core::{Result, Tensor};

use crate::Decoder;
use crate::decoder::Linear;

pub(crate) struct FusedWeights {
    pub(crate) embedding: Tensor,
    pub(crate) layers: Vec<FusedLayer>,
    pub(crate) norm: Tensor,
    pub(crate) head: Linear,
}

pub(crate) struct FusedLayer {
    pub(crate) input_norm: Tensor,
    /// Queries, keys, values.
    pub(crate) qkv: Linear,
    pub(crate) o: Linear,
    pub(crate) mlp_norm: Tensor,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

impl FusedWeights {
    pub(crate) fn new(decoder: &Decoder) -> Result<Self> {
        let layers = decoder.layers().iter().map(|layer| {
            Ok(FusedLayer {
                input_norm: own(&layer.input_norm)?,
                qkv: joined(&[&layer.q, &layer.k, &layer.v])?,
                o: joined(&[&layer.o])?,
                mlp_norm: own(&layer.mlp_norm)?,
                gate_up: joined(&[&layer.gate, &layer.up])?,
                down: joined(&[&layer.down])?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            embedding: own(decoder.embedding())?,
            norm: own(decoder.norm())?,
            head: Linear { weight: own(decoder.head())?, bias: None },
        })
    }
}

fn own(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().copy()
}

fn joined(parts: &[&Linear]) -> Result<Linear> {
    let fused = Linear::fuse(parts)?;
    let bias = fused.bias.as_ref().map(own).transpose()?;
    Ok(Linear { weight: own(&fused.weight)?, bias })
}
