//! The key-value cache and the attention that reads it: the part of decoding that differs between
//! devices. CUDA's is in `cuda`.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::cuda::CudaCache;
use crate::ops::{Real, attend, rotate, with_elements};
use crate::{ModelConfig, Rope, rope};

/// Products of queries and keys from which several threads read the cache: some 0.1 ms of one, where
/// to wake another takes a tenth of that.
const THREADS_FROM: usize = 1 << 19;

/// New tokens of one row in the packed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) row: usize,
    /// Packed index of the first new token.
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// Length of the row before them.
    pub(crate) past: usize,
}

/// A token whose attention is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    /// Its packed index.
    pub(crate) token: usize,
    pub(crate) row: usize,
    /// Its position within the row.
    pub(crate) position: usize,
}

pub(crate) enum KvCache {
    CpuF32(CpuCache<f32>),
    CpuF64(CpuCache<f64>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaCache>),
}

impl KvCache {
    pub(crate) fn new(
        config: &ModelConfig,
        (rows, capacity): (usize, usize),
        (dtype, device): (DType, &Device),
    ) -> Result<Self> {
        match (device, dtype) {
            (Device::Cpu, DType::F32) => Ok(Self::CpuF32(CpuCache::new(config, rows, capacity)?)),
            (Device::Cpu, DType::F64) => Ok(Self::CpuF64(CpuCache::new(config, rows, capacity)?)),
            #[cfg(feature = "cuda")]
            (Device::Cuda(_), dtype) => {
                let cache = CudaCache::new(config, (rows, capacity), (dtype, device))?;
                Ok(Self::Cuda(Box::new(cache)))
            }
            _ => bail!("decoding is built for f32 and f64 on the cpu, not {dtype:?} on {device:?}"),
        }
    }

    /// Appends the keys and values of all chunks to layer `layer`, then gives the attention of the
    /// readers, `[readers, H·hd]`. `qkv` is `[N, (H+2·KH)·hd]`.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        qkv: &Tensor,
        chunks: &[Chunk],
        readers: &[Reader],
    ) -> Result<Tensor> {
        match self {
            Self::CpuF32(cache) => cache.attend(layer, qkv, chunks, readers),
            Self::CpuF64(cache) => cache.attend(layer, qkv, chunks, readers),
            #[cfg(feature = "cuda")]
            Self::Cuda(cache) => cache.attend(layer, qkv, chunks, readers),
        }
    }

    pub(crate) fn copy_row(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        match self {
            Self::CpuF32(cache) => cache.copy_row(from, to, len),
            Self::CpuF64(cache) => cache.copy_row(from, to, len),
            #[cfg(feature = "cuda")]
            Self::Cuda(cache) => cache.copy_row(from, to, len)?,
        }
        Ok(())
    }
}

/// Per layer `[rows, KH, capacity, hd]`, keys already turned, so that a head's keys are one slice.
/// A layer with a window keeps all tokens too, so that a row can be cut back anywhere.
pub(crate) struct CpuCache<F> {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    capacity: usize,
    scale: F,
    layers: Vec<CacheLayer<F>>,
}

/// Of one head of one reader.
struct Query<'a, F> {
    reader: Reader,
    head: usize,
    /// `[hd]`, not yet turned.
    values: &'a [F],
}

/// What the attention of one query is computed in.
struct Scratch<F> {
    /// `[hd]`
    turned: Vec<F>,
    /// As many as a reader sees keys at most.
    weights: Vec<F>,
}

impl<F: Real> Scratch<F> {
    fn new(dim: usize, most_keys: usize) -> Self {
        Self { turned: vec![F::zero(); dim], weights: vec![F::zero(); most_keys] }
    }
}

struct CacheLayer<F> {
    keys: Vec<F>,
    values: Vec<F>,
    /// `[capacity, hd]`
    angles: Arc<Vec<F>>,
    /// How many keys a reader sees at most.
    window: usize,
}

impl<F: Real> CpuCache<F> {
    fn new(config: &ModelConfig, rows: usize, capacity: usize) -> Result<Self> {
        let size = rows * config.kv_heads * capacity * config.head_dim;
        let angles = |rope: &Rope| -> Result<Arc<Vec<F>>> {
            let table = rope::angles(rope, (capacity, config.head_dim), F::DTYPE, &Device::Cpu)?;
            Ok(Arc::new(table.flatten_all()?.to_vec1()?))
        };
        let global = angles(&config.rope)?;
        let local = config.local.as_ref().map(|local| angles(&local.rope)).transpose()?;
        let layer = |index| CacheLayer {
            keys: vec![F::zero(); size],
            values: vec![F::zero(); size],
            angles: Arc::clone(config.local(index).and(local.as_ref()).unwrap_or(&global)),
            window: config.local(index).map_or(usize::MAX, |local| local.window),
        };
        Ok(Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            dim: config.head_dim,
            capacity,
            scale: F::from_f64(config.query_scale()),
            layers: (0..config.layers).map(layer).collect(),
        })
    }

    fn attend(
        &mut self,
        layer: usize,
        qkv: &Tensor,
        chunks: &[Chunk],
        readers: &[Reader],
    ) -> Result<Tensor> {
        let width = self.heads * self.dim;
        let mut out = vec![F::zero(); readers.len() * width];
        with_elements::<F, _, 1>([qkv], |[qkv]| {
            self.append(layer, qkv, chunks);
            self.read(layer, qkv, readers, &mut out);
            Ok(())
        })?;
        Tensor::from_vec(out, (readers.len(), width), &Device::Cpu)
    }

    /// Start of a key or value within a layer.
    #[inline(always)]
    fn at(&self, row: usize, kv_head: usize, position: usize) -> usize {
        ((row * self.kv_heads + kv_head) * self.capacity + position) * self.dim
    }

    #[inline(always)]
    fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    fn append(&mut self, layer: usize, qkv: &[F], chunks: &[Chunk]) {
        let (dim, width) = (self.dim, self.row_width());
        for chunk in chunks {
            for i in 0..chunk.count {
                let position = chunk.past + i;
                let token = &qkv[(chunk.first + i) * width..(chunk.first + i + 1) * width];
                let (k, v) = token[self.heads * dim..].split_at(self.kv_heads * dim);
                for head in 0..self.kv_heads {
                    let to = self.at(chunk.row, head, position);
                    let from = head * dim..(head + 1) * dim;
                    let CacheLayer { keys, values, angles, .. } = &mut self.layers[layer];
                    let angles = &angles[position * dim..(position + 1) * dim];
                    rotate(&k[from.clone()], angles, F::one(), &mut keys[to..to + dim]);
                    values[to..to + dim].copy_from_slice(&v[from]);
                }
            }
        }
    }

    fn read(&self, layer: usize, qkv: &[F], readers: &[Reader], out: &mut [F]) {
        let sizes = || readers.iter().map(|reader| self.seen(layer, *reader).len());
        let most_keys = sizes().max().unwrap_or(0) / self.dim;
        let products = sizes().sum::<usize>() * self.heads;
        let scratch = || Scratch::new(self.dim, most_keys);
        let query = |at: usize| {
            let (reader, head) = (readers[at / self.heads], at % self.heads);
            let from = reader.token * self.row_width() + head * self.dim;
            Query { reader, head, values: &qkv[from..from + self.dim] }
        };
        // In this order: to ask for the threads starts them.
        if products >= THREADS_FROM && rayon::current_num_threads() > 1 {
            let out = out.par_chunks_exact_mut(self.dim).enumerate();
            out.for_each_init(scratch, |scratch, (at, out)| {
                self.read_head(layer, query(at), scratch, out)
            });
            return;
        }
        let mut scratch = scratch();
        for (at, out) in out.chunks_exact_mut(self.dim).enumerate() {
            self.read_head(layer, query(at), &mut scratch, out);
        }
    }

    /// Elements of the keys that a reader sees, counted from the first of its row and head.
    fn seen(&self, layer: usize, reader: Reader) -> Range<usize> {
        let end = reader.position + 1;
        end.saturating_sub(self.layers[layer].window) * self.dim..end * self.dim
    }

    #[inline(always)]
    fn read_head(
        &self,
        layer: usize,
        Query { reader, head, values: query }: Query<'_, F>,
        scratch: &mut Scratch<F>,
        out: &mut [F],
    ) {
        let dim = self.dim;
        let CacheLayer { keys, values, angles, .. } = &self.layers[layer];
        rotate(query, &angles[reader.position * dim..][..dim], F::one(), &mut scratch.turned);
        for x in &mut scratch.turned {
            *x *= self.scale;
        }
        let seen = self.seen(layer, reader);
        let weights = &mut scratch.weights[..seen.len() / dim];
        let first = self.at(reader.row, head / (self.heads / self.kv_heads), 0);
        let (keys, values) = (&keys[first..][seen.clone()], &values[first..][seen]);
        attend(&scratch.turned, keys, values, weights, out);
    }

    fn copy_row(&mut self, from: usize, to: usize, len: usize) {
        for head in 0..self.kv_heads {
            let (from, to) = (self.at(from, head, 0), self.at(to, head, 0));
            for layer in &mut self.layers {
                layer.keys.copy_within(from..from + len * self.dim, to);
                layer.values.copy_within(from..from + len * self.dim, to);
            }
        }
    }
}
