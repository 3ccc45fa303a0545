//! The key-value cache on CUDA: per layer `[rows, KH, capacity, hd]`, keys already turned, written
//! in place by the kernels.

use candle_core::{CudaDevice, DType, Device, Result, Tensor};
use device::{Attend, AttentionShape, CopyRow, StoreKeys};

use super::attention::check_head;
use super::{Table, into_tensor, numbers, size, whole};
use crate::decode::{Chunk, Reader};
use crate::{ModelConfig, Rope, rope};

pub(crate) struct CudaCache {
    shape: AttentionShape,
    layers: Vec<CacheLayer>,
    /// Words of 4 bytes of one row of one layer, and of one token of one head.
    row_words: u64,
    token_words: u64,
    tokens: Table,
    readers: Table,
}

struct CacheLayer {
    keys: Tensor,
    values: Tensor,
    /// f32 `[capacity, hd]`.
    angles: Tensor,
    window: u32,
}

impl CudaCache {
    pub(crate) fn new(
        config: &ModelConfig,
        (rows, capacity): (usize, usize),
        (dtype, device): (DType, &Device),
    ) -> Result<Self> {
        check_head(config.head_dim)?;
        let angles =
            |rope: &Rope| rope::angles(rope, (capacity, config.head_dim), DType::F32, device);
        let global = angles(&config.rope)?;
        let local = config.local.as_ref().map(|local| angles(&local.rope)).transpose()?;
        let count = rows * config.kv_heads * capacity * config.head_dim;
        let layer = |index: usize| {
            Ok(CacheLayer {
                keys: Tensor::zeros(count, dtype, device)?,
                values: Tensor::zeros(count, dtype, device)?,
                angles: config.local(index).and(local.as_ref()).unwrap_or(&global).clone(),
                window: config.local(index).map_or(0, |l| u32::try_from(l.window).unwrap_or(0)),
            })
        };
        let shape = AttentionShape {
            heads: size(config.heads)?,
            kv_heads: size(config.kv_heads)?,
            head_dim: size(config.head_dim)?,
            head_rows: size(capacity)?,
            window: 0,
            scale: config.query_scale() as f32,
            numbers: numbers(dtype)?,
        };
        // The row of a key is counted in u32.
        size(rows * config.kv_heads * capacity)?;
        // Head sizes are even, so that halves come in pairs.
        let token_words = (config.head_dim * dtype.size_in_bytes() / 4) as u64;
        Ok(Self {
            shape,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            row_words: token_words * (capacity * config.kv_heads) as u64,
            token_words,
            tokens: Table::default(),
            readers: Table::default(),
        })
    }

    /// See `KvCache::attend`.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        qkv: &Tensor,
        chunks: &[Chunk],
        readers: &[Reader],
    ) -> Result<Tensor> {
        let qkv = qkv.contiguous()?;
        let device = qkv.device().as_cuda_device()?;
        let from = device::of_tensor(&qkv)?;
        let (heads, kv_heads) = (self.shape.heads as usize, self.shape.kv_heads as usize);
        let dim = self.shape.head_dim as usize;
        let (width, bytes) = (size(qkv.dim(1)?)?, qkv.dtype().size_in_bytes());
        let tokens = self.stored_at(chunks)?;
        let count = size(tokens.len() / 2)?;
        let CacheLayer { keys, values, angles, window } = &self.layers[layer];
        let shape = AttentionShape { window: *window, ..self.shape };
        let (keys, values) = (device::of_tensor(keys)?, device::of_tensor(values)?);
        let angles = device::of_tensor(angles)?;
        let store = StoreKeys {
            keys,
            values,
            k: from.plus(heads * dim * bytes),
            k_width: width,
            v: from.plus((heads + kv_heads) * dim * bytes),
            v_width: width,
            tokens: self.tokens.pointer(device, tokens)?,
            count,
            angles,
        };
        device::launch(device, &store.call(shape))?;
        if readers.is_empty() {
            return Tensor::zeros((0, heads * dim), qkv.dtype(), &Device::Cpu);
        }
        let readers_at = self.read_at(readers)?;
        let out = device::empty(device, qkv.dtype(), readers.len() * heads * dim)?;
        let attend = Attend {
            out: whole(&out)?,
            q: from,
            q_width: width,
            readers: self.readers.pointer(device, readers_at)?,
            count: size(readers.len())?,
            keys,
            values,
            angles,
        };
        device::launch(device, &attend.call(shape))?;
        Ok(into_tensor(out, (readers.len(), heads * dim)))
    }

    pub(crate) fn copy_row(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        for layer in &self.layers {
            let device: &CudaDevice = layer.keys.device().as_cuda_device()?;
            for cache in [&layer.keys, &layer.values] {
                let call = CopyRow {
                    cache: device::of_tensor(cache)?,
                    from: from as u64 * self.row_words,
                    to: to as u64 * self.row_words,
                    kv_heads: self.shape.kv_heads,
                    head_words: self.token_words * u64::from(self.shape.head_rows),
                    words: self.token_words * len as u64,
                };
                device::launch(device, &call.call())?;
            }
        }
        Ok(())
    }

    /// The row of head 0's first key.
    fn start(&self, row: usize) -> usize {
        row * self.shape.kv_heads as usize * self.shape.head_rows as usize
    }

    fn stored_at(&self, chunks: &[Chunk]) -> Result<Vec<u32>> {
        let mut table = Vec::with_capacity(2 * chunks.iter().map(|c| c.count).sum::<usize>());
        for chunk in chunks {
            for position in chunk.past..chunk.past + chunk.count {
                table.extend([size(self.start(chunk.row) + position)?, size(position)?]);
            }
        }
        Ok(table)
    }

    fn read_at(&self, readers: &[Reader]) -> Result<Vec<u32>> {
        let mut table = Vec::with_capacity(3 * readers.len());
        for reader in readers {
            table.extend([reader.token, self.start(reader.row), reader.position].map(size));
        }
        table.into_iter().collect()
    }
}
