//! The differentiable forward pass and the log-probabilities that losses are made of. Losses and
//! optimisers live elsewhere.

use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use crate::block::{block, enter};
use crate::ops::{self, AttentionPlan, Query};
use crate::{Decoder, ModelError, Rope, rope};

impl Decoder {
    /// Logits `[N,V]` of the ids that can be written, at the selected positions, in their order. `tokens` is `[B,T]` (u32, padded
    /// on the right with any valid id), `select` `[N]` (u32) holds flat indices b·T + t.
    ///
    /// Attention is causal, so nothing after the last selected position of a row can matter:
    /// that part, padding included, is left out before the first layer.
    ///
    /// # Errors
    /// Shapes or indices out of range, or a numeric type that the device does not compute in.
    pub fn logits(&self, tokens: &Tensor, select: &Tensor) -> Result<Tensor, ModelError> {
        match self.prepare(tokens, select)? {
            Some(batch) => Ok(self.head().logits(&self.hidden(&batch)?)?),
            None => Ok(Tensor::zeros((0, self.config().ids), self.dtype(), self.device())?),
        }
    }

    /// `None` where no position is selected.
    pub(crate) fn prepare(
        &self,
        tokens: &Tensor,
        select: &Tensor,
    ) -> Result<Option<Batch>, ModelError> {
        let packed = Packed::new(&tokens.to_vec2()?, &select.to_vec1()?)?;
        let vocab = self.config().ids;
        if let Some(id) = packed.ids.iter().find(|id| **id as usize >= vocab) {
            return Err(ModelError::Input(format!("token {id} is outside the {vocab} tokens")));
        }
        let some = !packed.queries.is_empty();
        Ok(some.then(|| self.batch(packed)).transpose()?)
    }

    /// What the head reads of the selected positions, `[N,d]`.
    pub(crate) fn hidden(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let mut h = self.embed(batch)?;
        for index in 0..self.config().layers {
            h = self.block(batch, index, &h)?;
        }
        self.norm().forward(&h)
    }

    fn batch(&self, packed: Packed) -> candle_core::Result<Batch> {
        let (config, device) = (self.config(), self.device());
        let selected = packed.queries.iter().map(|q| (q.first + q.position) as u32);
        let selected = Tensor::from_iter(selected, device)?;
        let ids = Tensor::new(packed.ids, device)?;
        let every = Arc::new(packed.all_queries);
        let last = Arc::new(packed.queries);
        let key_positions = Arc::new(packed.positions);
        let reach = |rope: &Rope, window: usize| {
            let size = (packed.longest, config.head_dim);
            let every = AttentionPlan {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                queries: Arc::clone(&every),
                key_positions: Arc::clone(&key_positions),
                angles: rope::angles(rope, size, self.computing(), device)?,
                scale: config.query_scale(),
                window,
            };
            let last = AttentionPlan { queries: Arc::clone(&last), ..every.clone() };
            Ok::<_, candle_core::Error>(Reach { every, last })
        };
        let global = reach(&config.rope, usize::MAX)?;
        let local = config.local.as_ref().map(|l| reach(&l.rope, l.window)).transpose()?;
        Ok(Batch { ids, selected, global, local })
    }

    /// What enters the first block, `[N_packed,d]`.
    pub(crate) fn embed(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let rows = self.embedding().lookup(&batch.ids)?;
        enter(rows.to_dtype(self.computing())?, self.config())
    }

    /// What leaves block `index` if `h` enters it, a function of nothing else. The last block gives
    /// the selected positions `[N,d]`, the others all `[N_packed,d]`.
    pub(crate) fn block(
        &self,
        batch: &Batch,
        index: usize,
        h: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let (config, layer) = (self.config(), &self.layers()[index]);
        let reach = config.local(index).and(batch.local.as_ref()).unwrap_or(&batch.global);
        // Only the selected positions are read after the last block's keys and values.
        let (keep, plan) = match index + 1 == config.layers {
            true => (Some(&batch.selected), &reach.last),
            false => (None, &reach.every),
        };
        let attend = |x: &Tensor| {
            let (mut k, v) = (layer.k.forward(x)?, layer.v.forward(x)?);
            let mut q = match keep {
                Some(keep) => layer.q.forward(&x.index_select(keep, 0)?)?,
                None => layer.q.forward(x)?,
            };
            if let Some(norms) = &layer.norms.heads {
                (q, k) = (norms.q.per_head(&q)?, norms.k.per_head(&k)?);
            }
            layer.o.forward(&ops::attention(&q, &k, &v, plan.clone())?)
        };
        let mlp = |x: &Tensor| {
            let (gate, up) = (layer.gate.forward(x)?, layer.up.forward(x)?);
            layer.down.forward(&ops::glu(&gate, &up, config.activation)?)
        };
        block(h, &layer.norms, keep, attend, mlp)
    }
}

/// One batch, packed, as every block reads it.
pub(crate) struct Batch {
    /// `[N_packed]`
    pub(crate) ids: Tensor,
    /// Packed indices of the selected positions, `[N]`.
    selected: Tensor,
    global: Reach,
    local: Option<Reach>,
}

/// Who attends to what: in all blocks but the last, and in the last.
struct Reach {
    every: AttentionPlan,
    last: AttentionPlan,
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
    check_temperature(temperature)?;
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

pub(crate) fn check_temperature(temperature: f64) -> Result<(), ModelError> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    let what = format!("log-probabilities need a positive temperature, not {temperature}");
    Err(ModelError::Input(what))
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
}
