//! The decoder's weights as the engine multiplies them: copied, so that later writes to variables
//! do not reach a running batch, and joined where one product serves several layers.

use candle_core::Result;

use crate::Decoder;
use crate::block::{Norm, Norms};
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
    pub(crate) fn new(decoder: &Decoder) -> Result<Self> {
        let layers = decoder.layers().iter().map(|layer| {
            Ok(FusedLayer {
                norms: layer.norms.frozen()?,
                qkv: Linear::joined(&[&layer.q, &layer.k, &layer.v])?,
                o: Linear::joined(&[&layer.o])?,
                gate_up: Linear::joined(&[&layer.gate, &layer.up])?,
                down: Linear::joined(&[&layer.down])?,
            })
        });
        let embedding = Weight::joined(std::slice::from_ref(decoder.embedding()))?;
        let head = match decoder.config().tie_word_embeddings {
            true => Linear::new(embedding.first_rows(decoder.config().ids)?, None),
            false => Linear::joined(&[decoder.head()])?,
        };
        let norm = decoder.norm().frozen()?;
        Ok(Self { layers: layers.collect::<Result<_>>()?, embedding, norm, head })
    }
}
