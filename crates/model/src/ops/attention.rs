//! Causal grouped-query attention over packed sequences, rotary positions included, with its
//! gradient. Which tokens are packed is decided by the training forward; the decode cache has its
//! own loop over the same kernels.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::kernels::{Real, add_scaled, attend, attention_weights, dot, rotate};
use super::{elements, for_dtype, with_elements};

/// Position of one query in the packed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// Packed index of its sequence's first token.
    pub(crate) first: usize,
    /// Index within its sequence; it sees keys up to and with this one.
    pub(crate) position: usize,
}

/// Who attends to what; the same for every layer with these queries.
#[derive(Clone, Debug)]
pub(crate) struct AttentionPlan {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) queries: Arc<Vec<Query>>,
    /// Index of each key within its sequence.
    pub(crate) key_positions: Arc<Vec<usize>>,
    /// `[T, hd]`: the cosines of a position, then its sines.
    pub(crate) angles: Tensor,
    /// Queries are multiplied by it.
    pub(crate) scale: f64,
    /// How many keys a query sees at most, its own token's included.
    pub(crate) window: usize,
}

/// `q` is `[M, H·hd]`, one row per query of the plan; `k` and `v` are `[N, KH·hd]`. Gives
/// `[M, H·hd]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, plan: AttentionPlan) -> Result<Tensor> {
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Attention(plan))
}

struct Attention(AttentionPlan);

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = for_dtype!(q.dtype(), self.name(), F => {
            let q = elements::<F>(q, q_layout)?;
            let kv = (elements::<F>(k, k_layout)?, elements::<F>(v, v_layout)?);
            let mut out = vec![0.0; q.len()];
            with_elements::<F, _, 1>([&self.0.angles], |[angles]| {
                self.0.forward(q, kv, angles, &mut out);
                Ok(())
            })?;
            candle_core::WithDType::to_cpu_storage_owned(out)
        });
        Ok((out, q_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        k: &CudaStorage,
        k_layout: &Layout,
        v: &CudaStorage,
        v_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::cuda::attention(&self.0, (q, q_layout), (k, k_layout), (v, v_layout))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if q.device().is_cuda() {
            let [q, k, v] = crate::cuda::attention_backward(&self.0, [q, k, v], res, grad)?;
            return Ok((Some(q), Some(k), Some(v)));
        }
        for_dtype!(q.dtype(), self.name(), F => {
            let inputs = [q, k, v, &self.0.angles, res, grad];
            with_elements::<F, _, 6>(inputs, |[qs, ks, vs, angles, res, grad]| {
                let saved = Saved { q: qs, kv: (ks, vs), angles, res, grad };
                let (mut grad_q, mut grad_k) = (vec![0.0; qs.len()], vec![0.0; ks.len()]);
                let mut grad_v = vec![0.0; vs.len()];
                self.0.backward(&saved, &mut grad_q, (&mut grad_k, &mut grad_v));
                let grad_q = Tensor::from_vec(grad_q, q.shape(), q.device())?;
                let grad_k = Tensor::from_vec(grad_k, k.shape(), k.device())?;
                let grad_v = Tensor::from_vec(grad_v, v.shape(), v.device())?;
                Ok((Some(grad_q), Some(grad_k), Some(grad_v)))
            })
        })
    }
}

/// What the backward pass reads.
struct Saved<'a, F> {
    q: &'a [F],
    kv: (&'a [F], &'a [F]),
    angles: &'a [F],
    res: &'a [F],
    grad: &'a [F],
}

impl AttentionPlan {
    #[inline(always)]
    fn angles<'a, F>(&self, angles: &'a [F], position: usize) -> &'a [F] {
        &angles[position * self.head_dim..(position + 1) * self.head_dim]
    }

    /// How many keys a query sees.
    #[inline(always)]
    fn seen(&self, query: Query) -> usize {
        self.window.min(query.position + 1)
    }

    fn longest(&self) -> usize {
        self.queries.iter().map(|q| self.seen(*q)).max().unwrap_or(0)
    }

    /// Turned keys, then values, each laid out `[KH, N, hd]`.
    fn split<F: Real>(&self, (k, v): (&[F], &[F]), angles: &[F]) -> (Vec<F>, Vec<F>) {
        let (dim, n) = (self.head_dim, self.key_positions.len());
        let width = self.kv_heads * dim;
        let (mut keys, mut values) = (vec![F::zero(); k.len()], vec![F::zero(); v.len()]);
        for (i, position) in self.key_positions.iter().enumerate() {
            let angles = self.angles(angles, *position);
            for head in 0..self.kv_heads {
                let (from, to) = (i * width + head * dim, (head * n + i) * dim);
                rotate(&k[from..from + dim], angles, F::one(), &mut keys[to..to + dim]);
                values[to..to + dim].copy_from_slice(&v[from..from + dim]);
            }
        }
        (keys, values)
    }

    #[inline(always)]
    fn turned_query<F: Real>(&self, q: &[F], angles: &[F], to: &mut [F]) {
        rotate(q, angles, F::one(), to);
        for x in to.iter_mut() {
            *x *= F::from_f64(self.scale);
        }
    }

    /// Slice of `keys` or `values` that a query of this head sees.
    #[inline(always)]
    fn visible(&self, query: Query, head: usize) -> std::ops::Range<usize> {
        let kv_head = head / (self.heads / self.kv_heads);
        let end = kv_head * self.key_positions.len() + query.first + query.position + 1;
        (end - self.seen(query)) * self.head_dim..end * self.head_dim
    }

    fn forward<F: Real>(&self, q: &[F], kv: (&[F], &[F]), angles: &[F], out: &mut [F]) {
        let dim = self.head_dim;
        let (keys, values) = self.split(kv, angles);
        let mut weights = vec![F::zero(); self.longest()];
        let mut turned = vec![F::zero(); dim];
        let rows = q.chunks_exact(self.heads * dim).zip(out.chunks_exact_mut(self.heads * dim));
        for (query, (q, out)) in self.queries.iter().zip(rows) {
            let weights = &mut weights[..self.seen(*query)];
            let angles = self.angles(angles, query.position);
            let heads = q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate();
            for (head, (q, out)) in heads {
                self.turned_query(q, angles, &mut turned);
                let seen = self.visible(*query, head);
                attend(&turned, &keys[seen.clone()], &values[seen], weights, out);
            }
        }
    }

    /// With P the weights and O the result: dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − dO·O)
    /// (Dao et al. 2022, appendix B.2), then back through the scale and the rotation.
    fn backward<F: Real>(
        &self,
        saved: &Saved<'_, F>,
        grad_q: &mut [F],
        grad_kv: (&mut [F], &mut [F]),
    ) {
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        let (keys, values) = self.split(saved.kv, saved.angles);
        let mut grad_keys = vec![F::zero(); keys.len()];
        let mut grad_values = vec![F::zero(); values.len()];
        let mut weights = vec![F::zero(); self.longest()];
        let (mut turned, mut grad_turned) = (vec![F::zero(); dim], vec![F::zero(); dim]);
        for (i, query) in self.queries.iter().enumerate() {
            let weights = &mut weights[..self.seen(*query)];
            let angles = self.angles(saved.angles, query.position);
            for head in 0..self.heads {
                let at = i * width + head * dim..i * width + (head + 1) * dim;
                let seen = self.visible(*query, head);
                let (keys, values) = (&keys[seen.clone()], &values[seen.clone()]);
                self.turned_query(&saved.q[at.clone()], angles, &mut turned);
                attention_weights(&turned, keys, weights);
                let grad = &saved.grad[at.clone()];
                let shared = dot(grad, &saved.res[at.clone()]);
                grad_turned.fill(F::zero());
                let to = grad_keys[seen.clone()].chunks_exact_mut(dim);
                let to = to.zip(grad_values[seen].chunks_exact_mut(dim));
                let from = keys.chunks_exact(dim).zip(values.chunks_exact(dim));
                for ((weight, (key, value)), (grad_key, grad_value)) in
                    weights.iter().zip(from).zip(to)
                {
                    let slope = *weight * (dot(grad, value) - shared);
                    add_scaled(&mut grad_turned, slope, key);
                    add_scaled(grad_key, slope, &turned);
                    add_scaled(grad_value, *weight, grad);
                }
                for x in &mut grad_turned {
                    *x *= F::from_f64(self.scale);
                }
                rotate(&grad_turned, angles, F::from_f64(-1.0), &mut grad_q[at]);
            }
        }
        self.join((&grad_keys, &grad_values), saved.angles, grad_kv);
    }

    /// The reverse of [`Self::split`] for gradients.
    fn join<F: Real>(
        &self,
        (keys, values): (&[F], &[F]),
        angles: &[F],
        (k, v): (&mut [F], &mut [F]),
    ) {
        let (dim, n) = (self.head_dim, self.key_positions.len());
        let width = self.kv_heads * dim;
        for (i, position) in self.key_positions.iter().enumerate() {
            let angles = self.angles(angles, *position);
            for head in 0..self.kv_heads {
                let (to, from) = (i * width + head * dim, (head * n + i) * dim);
                let back = F::from_f64(-1.0);
                rotate(&keys[from..from + dim], angles, back, &mut k[to..to + dim]);
                v[to..to + dim].copy_from_slice(&values[from..from + dim]);
            }
        }
    }
}
