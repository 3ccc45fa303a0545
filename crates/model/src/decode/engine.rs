//! The ragged engine: rows of different length advance together, each by its own number of tokens.
//! All new tokens are packed for the linear layers; only attention knows rows.

use candle_core::{DType, Device, Tensor};

use super::cache::{Chunk, KvCache, Reader};
use super::fused::{FusedLayer, FusedWeights};
use super::output::StepOutput;
use crate::block::{HeadNorms, block, enter};
use crate::{Activation, Decoder, ModelConfig, ModelError, ops};

/// New tokens for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowInput<'a> {
    pub row: usize,
    pub tokens: &'a [u32],
    pub want: Want,
}

/// After which of the new tokens logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Nothing,
    Last,
    All,
}

/// Where a row of the logits belongs: they predict the token after `position` of `row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub row: usize,
    pub position: usize,
}

/// What becomes of the rows when other weights are put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The caller feeds the texts again, which are then read by the new weights alone.
    Cleared,
    /// The new weights go on from what the old ones have read.
    Kept,
}

/// A decoder with a preallocated cache of `rows` times `capacity` tokens.
pub struct RaggedEngine {
    config: ModelConfig,
    weights: FusedWeights,
    placement: (DType, Device),
    cache: KvCache,
    lens: Vec<usize>,
    capacity: usize,
}

/// What one step does, checked before anything is changed.
struct Plan {
    ids: Vec<u32>,
    chunks: Vec<Chunk>,
    /// Every new token.
    all: Vec<Reader>,
    /// The wanted ones.
    wanted: Vec<Reader>,
}

impl RaggedEngine {
    /// # Errors
    /// A capacity that the model's positions do not cover, a type or device that is not built.
    pub fn new(decoder: Decoder, rows: usize, capacity: usize) -> Result<Self, ModelError> {
        let config = decoder.config().clone();
        let longest = config.max_position_embeddings;
        if rows == 0 || capacity == 0 || capacity > longest {
            return Err(ModelError::Input(format!(
                "an engine of {rows} rows with {capacity} tokens each is not possible: at least \
                 one row, and between 1 and max_position_embeddings = {longest} tokens"
            )));
        }
        let placement = (decoder.dtype(), decoder.device().clone());
        let cache = KvCache::new(&config, (rows, capacity), (placement.0, &placement.1))?;
        let weights = FusedWeights::new(decoder)?;
        Ok(Self { config, weights, placement, cache, lens: vec![0; rows], capacity })
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.lens.len()
    }

    /// Tokens that fit into one row.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tokens in a row; 0 for a row that does not exist.
    #[must_use]
    pub fn len(&self, row: usize) -> usize {
        self.lens.get(row).copied().unwrap_or(0)
    }

    /// No row holds a token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lens.iter().all(|len| *len == 0)
    }

    /// # Errors
    /// An unknown row.
    pub fn clear(&mut self, row: usize) -> Result<(), ModelError> {
        self.truncate(row, 0)
    }

    /// Forgets everything from position `len` on; a shorter row stays as it is.
    ///
    /// # Errors
    /// An unknown row.
    pub fn truncate(&mut self, row: usize, len: usize) -> Result<(), ModelError> {
        self.check_row(row)?;
        self.lens[row] = self.lens[row].min(len);
        Ok(())
    }

    /// Makes `to` hold what `from` holds, so that samples of one prompt share its computation.
    ///
    /// # Errors
    /// An unknown row.
    pub fn copy_row(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.check_row(from)?;
        self.check_row(to)?;
        if from != to {
            self.cache.copy_row(from, to, self.lens[from])?;
            self.lens[to] = self.lens[from];
        }
        Ok(())
    }

    /// Puts other weights of the same shape in place.
    ///
    /// # Errors
    /// A decoder of another configuration, type or device; the engine is then unchanged.
    pub fn set_decoder(&mut self, decoder: Decoder, rows: Rows) -> Result<(), ModelError> {
        let same_device = decoder.device().same_device(&self.placement.1);
        if *decoder.config() != self.config || decoder.dtype() != self.placement.0 || !same_device {
            return Err(ModelError::Input(
                "weights of another configuration cannot replace those of a running engine"
                    .to_owned(),
            ));
        }
        self.weights = FusedWeights::new(decoder)?;
        if rows == Rows::Cleared {
            self.lens.fill(0);
        }
        Ok(())
    }

    /// Appends the inputs' tokens to their rows and gives what is wanted, in the order of the inputs
    /// and, within one, of its tokens.
    ///
    /// # Errors
    /// An unknown or full row, a row named twice, no tokens, a token outside the vocabulary. No
    /// row has changed then.
    pub fn step(&mut self, inputs: &[RowInput<'_>]) -> Result<StepOutput, ModelError> {
        let plan = self.plan(inputs)?;
        let wanted = plan.wanted.iter().map(|r| Wanted { row: r.row, position: r.position });
        let wanted = wanted.collect();
        let states = match plan.ids.is_empty() {
            true => self.no_states()?,
            false => self.forward(&plan)?,
        };
        for chunk in &plan.chunks {
            self.lens[chunk.row] = chunk.past + chunk.count;
        }
        let head = self.weights.head.clone();
        Ok(StepOutput { wanted, states, head, vocab: self.config.ids })
    }

    fn plan(&self, inputs: &[RowInput<'_>]) -> Result<Plan, ModelError> {
        let total = inputs.iter().map(|i| i.tokens.len()).sum();
        let mut plan = Plan {
            ids: Vec::with_capacity(total),
            chunks: Vec::with_capacity(inputs.len()),
            all: Vec::with_capacity(total),
            wanted: Vec::new(),
        };
        let mut named = vec![false; self.rows()];
        for input in inputs {
            let RowInput { row, tokens, want } = *input;
            self.check_row(row)?;
            if std::mem::replace(&mut named[row], true) {
                return Err(ModelError::Input(format!("row {row} is named twice in one step")));
            }
            if tokens.is_empty() {
                return Err(ModelError::Input(format!("row {row} is given no tokens")));
            }
            let (past, count, capacity) = (self.lens[row], tokens.len(), self.capacity);
            if past + count > capacity {
                return Err(ModelError::RowFull { row, len: past, new: count, capacity });
            }
            let vocab = self.config.ids;
            if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
                return Err(ModelError::Input(format!("token {id} is outside the {vocab} tokens")));
            }
            let first = plan.ids.len();
            plan.ids.extend(tokens);
            plan.chunks.push(Chunk { row, first, count, past });
            let mut readers =
                (0..count).map(|i| Reader { token: first + i, row, position: past + i });
            plan.all.extend(readers.clone());
            match want {
                Want::Nothing => {}
                Want::Last => plan.wanted.extend(readers.next_back()),
                Want::All => plan.wanted.extend(readers),
            }
        }
        Ok(plan)
    }

    /// Of the wanted tokens, after the last norm: `[n,d]`.
    fn forward(&mut self, plan: &Plan) -> Result<Tensor, ModelError> {
        let Self { config, weights, placement: (_, device), cache, .. } = self;
        let ids = Tensor::new(plan.ids.as_slice(), device)?;
        let mut h = enter(weights.embedding.lookup(&ids)?, config)?; // [N,d]
        let kept = match !plan.wanted.is_empty() && plan.wanted.len() < plan.all.len() {
            true => Some(Tensor::from_iter(plan.wanted.iter().map(|r| r.token as u32), device)?),
            false => None,
        };
        for (index, layer) in weights.layers.iter().enumerate() {
            let last = index + 1 == weights.layers.len();
            let (readers, keep) =
                if last { (&plan.wanted, kept.as_ref()) } else { (&plan.all, None) };
            if readers.is_empty() {
                let x = layer.norms.attention.forward(&h)?;
                cache.attend(index, &qkv(layer, &x, config)?, &plan.chunks, readers)?;
                return self.no_states();
            }
            let attend = |x: &Tensor| {
                let qkv = qkv(layer, x, config)?;
                layer.o.forward(&cache.attend(index, &qkv, &plan.chunks, readers)?)
            };
            h = block(&h, &layer.norms, keep, attend, |x| mlp(layer, x, config.activation))?;
        }
        Ok(weights.norm.forward(&h)?)
    }

    /// Not on a device, which may refuse to hold nothing.
    fn no_states(&self) -> Result<Tensor, ModelError> {
        let dtype = self.placement.0;
        Ok(Tensor::zeros((0, self.config.hidden_size), dtype, &Device::Cpu)?)
    }

    fn check_row(&self, row: usize) -> Result<(), ModelError> {
        match row < self.rows() {
            true => Ok(()),
            false => Err(ModelError::UnknownRow { row, rows: self.rows() }),
        }
    }
}

/// The packed queries, keys and values `[N, (H+2·KH)·hd]` of a layer.
fn qkv(layer: &FusedLayer, x: &Tensor, config: &ModelConfig) -> candle_core::Result<Tensor> {
    let qkv = layer.qkv.forward(x)?;
    let Some(HeadNorms { q, k }) = &layer.norms.heads else { return Ok(qkv) };
    let (own, shared) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let queries = q.per_head(&qkv.narrow(1, 0, own)?)?;
    let keys = k.per_head(&qkv.narrow(1, own, shared)?)?;
    Tensor::cat(&[queries, keys, qkv.narrow(1, own + shared, shared)?], 1)
}

fn mlp(layer: &FusedLayer, x: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
    let gate_up = layer.gate_up.forward(x)?;
    let width = gate_up.dim(1)? / 2;
    let (gate, up) = (gate_up.narrow(1, 0, width)?, gate_up.narrow(1, width, width)?);
    layer.down.forward(&ops::glu(&gate, &up, activation)?)
}
