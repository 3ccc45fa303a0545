//! The differentiable forward pass and the log-probabilities that losses are made of. Losses and
//! optimisers live elsewhere.

use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use crate::decoder::{Decoder, Linear};
use crate::ops::{self, AttentionPlan, Query};
use crate::{ModelError, rope};

impl Decoder {
    /// Logits `[N,V]` at the selected positions, in their order. `tokens` is `[B,T]` (u32, padded
    /// on the right with any valid id), `select` `[N]` (u32) holds flat indices b·T + t.
    ///
    /// Attention is causal, so nothing after the last selected position of a row can matter:
    /// that part, padding included, is left out before the first layer.
    ///
    /// # Errors
    /// Shapes or indices out of range, or a numeric type that the device does not compute in.
    pub fn logits(&self, tokens: &Tensor, select: &Tensor) -> Result<Tensor, ModelError> {
        let packed = Packed::new(&tokens.to_vec2()?, &select.to_vec1()?)?;
        if let Some(id) = packed.ids.iter().find(|id| **id as usize >= self.config().vocab_size) {
            let vocab = self.config().vocab_size;
            return Err(ModelError::Input(format!("token {id} is outside the {vocab} tokens")));
        }
        if packed.queries.is_empty() {
            let shape = (0, self.config().vocab_size);
            return Ok(Tensor::zeros(shape, self.dtype(), self.device())?);
        }
        Ok(self.forward(packed)?)
    }

    fn forward(&self, packed: Packed) -> candle_core::Result<Tensor> {
        let (config, device) = (self.config(), self.device());
        let selected = Tensor::new(packed.selected(), device)?;
        let ids = Tensor::new(packed.ids.as_slice(), device)?;
        let angles = rope::angles(config, packed.longest, self.dtype(), device)?;
        let mut plan = AttentionPlan {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            queries: Arc::new(packed.all_queries),
            key_positions: Arc::new(packed.positions),
        };
        let mut h = self.embedding().index_select(&ids, 0)?; // [N_packed,d]
        for (index, layer) in self.layers().iter().enumerate() {
            let x = ops::rms_norm(&h, &layer.input_norm, config.rms_norm_eps)?;
            let kv = Linear::fuse(&[&layer.k, &layer.v])?.forward(&x)?;
            let mut from = x;
            if index + 1 == config.layers {
                // Only the selected positions are read from here on.
                from = from.index_select(&selected, 0)?;
                h = h.index_select(&selected, 0)?; // [N,d]
                plan.queries = Arc::new(packed.queries.clone());
            }
            let q = layer.q.forward(&from)?;
            let mixed = ops::attention(&q, &kv, &angles, plan.clone())?;
            h = (h + layer.o.forward(&mixed)?)?;
            let x = ops::rms_norm(&h, &layer.mlp_norm, config.rms_norm_eps)?;
            let gate_up = Linear::fuse(&[&layer.gate, &layer.up])?.forward(&x)?;
            h = (h + layer.down.forward(&ops::swiglu(&gate_up)?)?)?;
        }
        let x = ops::rms_norm(&h, self.norm(), config.rms_norm_eps)?;
        x.matmul(&self.head().t()?) // [N,V]
    }
}

/// Log-probability `[N]` of each target under the softmax of `logits / temperature`, `[N,V]`.
/// A target that is a stop counts the probability of all stops, as the sampler does.
///
/// # Errors
/// A temperature that is not positive, or targets outside the vocabulary.
pub fn logprobs(
    logits: &Tensor,
    targets: &Tensor,
    temperature: f64,
    stops: &[u32],
) -> Result<Tensor, ModelError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(ModelError::Input(format!(
            "log-probabilities need a positive temperature, not {temperature}"
        )));
    }
    let scaled = if temperature == 1.0 { logits.clone() } else { (logits / temperature)? };
    let norm = log_sum_exp(&scaled)?;
    let own = scaled.gather(&targets.unsqueeze(1)?, D::Minus1)?.squeeze(1)?;
    if stops.len() < 2 {
        return Ok((own - norm)?);
    }
    let ends = Tensor::new(stops, logits.device())?;
    let end = log_sum_exp(&scaled.index_select(&ends, 1)?)?;
    let mut is_end = targets.zeros_like()?.to_dtype(DType::U8)?;
    for stop in stops {
        is_end = is_end.add(&targets.eq(*stop)?)?;
    }
    Ok((is_end.where_cond(&end, &own)? - norm)?)
}

/// Over the last dimension of `[N,V]`, the maximum kept out of the gradient, where it cancels.
fn log_sum_exp(x: &Tensor) -> candle_core::Result<Tensor> {
    let max = x.detach().max_keepdim(D::Minus1)?;
    let sum = x.broadcast_sub(&max)?.exp()?.sum(D::Minus1)?;
    sum.log()? + max.squeeze(1)?
}

/// The needed prefix of every row, one after the other.
struct Packed {
    ids: Vec<u32>,
    /// Of each packed token within its row.
    positions: Vec<usize>,
    /// One per packed token.
    all_queries: Vec<Query>,
    /// One per selected position, in the order asked for.
    queries: Vec<Query>,
    longest: usize,
}

impl Packed {
    fn new(tokens: &[Vec<u32>], select: &[u32]) -> Result<Self, ModelError> {
        let width = tokens.first().map_or(0, Vec::len);
        let mut lens = vec![0; tokens.len()];
        for flat in select {
            let flat = *flat as usize;
            if width == 0 || flat / width >= tokens.len() {
                let rows = tokens.len();
                return Err(ModelError::Input(format!(
                    "selected position {flat} is outside the {rows} x {width} tokens"
                )));
            }
            let len: &mut usize = &mut lens[flat / width];
            *len = (*len).max(flat % width + 1);
        }
        let total = lens.iter().sum();
        let mut packed = Self {
            ids: Vec::with_capacity(total),
            positions: Vec::with_capacity(total),
            all_queries: Vec::with_capacity(total),
            queries: Vec::with_capacity(select.len()),
            longest: lens.iter().copied().max().unwrap_or(0),
        };
        let mut firsts = Vec::with_capacity(tokens.len());
        for (row, len) in tokens.iter().zip(&lens) {
            let first = packed.ids.len();
            firsts.push(first);
            packed.ids.extend(&row[..*len]);
            packed.positions.extend(0..*len);
            packed.all_queries.extend((0..*len).map(|position| Query { first, position }));
        }
        packed.queries.extend(select.iter().map(|flat| {
            let flat = *flat as usize;
            Query { first: firsts[flat / width], position: flat % width }
        }));
        Ok(packed)
    }

    /// Packed indices of the selected positions.
    fn selected(&self) -> Vec<u32> {
        self.queries.iter().map(|q| (q.first + q.position) as u32).collect()
    }
}
