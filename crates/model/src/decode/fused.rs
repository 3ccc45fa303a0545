//! The decoder's weights as the engine multiplies them: variables copied, so that later writes to them
//! do not reach a running batch, and joined where one product serves several layers.

use candle_core::Result;

use crate::Decoder;
use crate::block::{Norm, Norms};
use crate::decoder::Layer;
use crate::linear::{Linear, Weight};

pub(crate) struct FusedWeights {
    pub(crate) embedding: Weight,
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
    /// A decoder that nobody else holds leaves layer by layer, so that no second set of weights is
    /// held.
    pub(crate) fn new(decoder: Decoder) -> Result<Self> {
        let (tied, ids) = (decoder.config().tie_word_embeddings, decoder.config().ids);
        let (layers, embedding, norm, head) = decoder.into_weights();
        let layers = layers.into_iter().map(FusedLayer::new).collect::<Result<_>>()?;
        let embedding = Weight::joined(std::slice::from_ref(&embedding))?;
        let head = match tied {
            true => Linear::new(embedding.first_rows(ids)?, None),
            false => Linear::joined(&[&head])?,
        };
        Ok(Self { layers, embedding, norm: norm.frozen()?, head })
    }
}

impl FusedLayer {
    fn new(layer: Layer) -> Result<Self> {
        Ok(Self {
            norms: layer.norms.frozen()?,
            qkv: Linear::joined(&[&layer.q, &layer.k, &layer.v])?,
            o: Linear::joined(&[&layer.o])?,
            gate_up: Linear::joined(&[&layer.gate, &layer.up])?,
            down: Linear::joined(&[&layer.down])?,
        })
    }
}
