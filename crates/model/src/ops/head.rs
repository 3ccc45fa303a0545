//! Log-probabilities of chosen tokens, from the last hidden states through the head, with their
//! gradient. Logits exist for one chunk of rows at a time: the backward pass computes them again.
//! Which rows and targets there are is decided by the training forward.

use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp2, InplaceOp1, Layout, Result, Shape, Tensor, WithDType, bail,
};

use super::kernels::{Real, largest, sum_exp};
use super::{for_dtype, with_elements};
use crate::linear::{Linear, Weight};

/// Elements of the head's gradient that are computed at once.
const BLOCK: usize = 1 << 22;

/// Who is scored how.
#[derive(Clone, Debug)]
pub(crate) struct HeadPlan {
    /// One per row, below `ids`.
    pub(crate) targets: Arc<[u32]>,
    /// A target among them counts the probability of all, where there are two or more.
    pub(crate) stops: Arc<[u32]>,
    pub(crate) temperature: f64,
    /// Ids from here on are padding of the head and have no probability.
    pub(crate) ids: usize,
    /// Rows whose logits are held at once, at least 1.
    pub(crate) chunk_rows: usize,
}

/// `x` is `[N,d]`, `head` `[V,d]`. Gives `[N]`.
pub(crate) fn head_logprobs(x: &Tensor, head: &Tensor, plan: HeadPlan) -> Result<Tensor> {
    let values = plan.forward(&x.detach(), &head.detach())?;
    x.apply_op2(head, HeadLogprobs { plan, values })
}

struct HeadLogprobs {
    plan: HeadPlan,
    /// `[N]`, computed by tensor operations before.
    values: Tensor,
}

impl CustomOp2 for HeadLogprobs {
    fn name(&self) -> &'static str {
        "head-logprobs"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _head: &CpuStorage,
        _head_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (storage, _) = self.values.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cpu(values) => Ok((values.clone(), self.values.shape().clone())),
            _ => bail!("{} needs tensors on one device", self.name()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _x: &CudaStorage,
        _x_layout: &Layout,
        _head: &CudaStorage,
        _head_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.values.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cuda(values) => {
                Ok((values.try_clone(layout)?, self.values.shape().clone()))
            }
            _ => bail!("{} needs tensors on one device", self.name()),
        }
    }

    /// A head without a gradient of its own costs none.
    fn bwd(
        &self,
        x: &Tensor,
        head: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let slopes = grad.to_dtype(candle_core::DType::F64)?.to_vec1()?;
        let pair = (&x.detach(), &head.detach());
        if !head.track_op() {
            return Ok((Some(self.plan.backward(pair, &slopes, None)?), None));
        }
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let sum = Tensor::zeros(head.shape(), candle_core::DType::F32, head.device())?;
            let mut add =
                |first: usize, block: &Tensor| crate::cuda::add_to_rows(&sum, first, block);
            let grad_x = self.plan.backward(pair, &slopes, Some(&mut add))?;
            return Ok((Some(grad_x), Some(sum.to_dtype(head.dtype())?)));
        }
        for_dtype!(x.dtype(), self.name(), F => {
            let width = head.dim(1)?;
            let mut sum: Vec<F> = vec![0.0; head.elem_count()];
            let mut add = |first: usize, block: &Tensor| {
                with_elements::<F, _, 1>([block], |[block]| {
                    let to = &mut sum[first * width..][..block.len()];
                    to.iter_mut().zip(block).for_each(|(to, x)| *to += *x);
                    Ok(())
                })
            };
            let grad_x = self.plan.backward(pair, &slopes, Some(&mut add))?;
            let grad_head = Tensor::from_vec(sum, head.shape(), head.device())?;
            Ok((Some(grad_x), Some(grad_head)))
        })
    }
}

/// Takes `[n,d]` of the head's gradient, to be added from the given row on.
pub(crate) type Blocks<'a> = &'a mut dyn FnMut(usize, &Tensor) -> Result<()>;

impl HeadPlan {
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let (rows, chunk) = (self.targets.len(), self.chunk_rows);
        (0..rows).step_by(chunk).map(move |start| start..(start + chunk).min(rows))
    }

    /// `[n, ids]`; in f32 whatever narrower type the states are of.
    fn logits(&self, x: &Tensor, known: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
        Linear::new(Weight::Dense(known.clone()), None).logits(&x.narrow(
            0,
            rows.start,
            rows.len(),
        )?)
    }

    /// The head of the ids that are no padding, as the states are. `[ids, d]`
    fn known(&self, x: &Tensor, head: &Tensor) -> Result<Tensor> {
        head.narrow(0, 0, self.ids)?.to_dtype(x.dtype())
    }

    /// The values of the logits `[n, ids]` of some rows, on the device.
    #[cfg(feature = "cuda")]
    fn scored_on_cuda(&self, logits: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        crate::cuda::scores(logits, &self.targets[rows], self.ends(), self.temperature)
    }

    /// Stops that are merged.
    #[cfg(feature = "cuda")]
    fn ends(&self) -> &[u32] {
        if self.stops.len() > 1 { &self.stops } else { &[] }
    }

    /// Turns logits, in place, into the gradient towards them.
    fn slope(&self, logits: &Tensor, slopes: &[f64], rows: &Range<usize>) -> Result<()> {
        let slopes = &slopes[rows.clone()];
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda() {
            let targets = &self.targets[rows.clone()];
            return crate::cuda::slopes(logits, (targets, slopes), self.ends(), self.temperature);
        }
        logits.inplace_op1(&Slopes { plan: self, slopes, rows })
    }

    /// `[N]` of constants.
    pub(crate) fn forward(&self, x: &Tensor, head: &Tensor) -> Result<Tensor> {
        let known = self.known(x, head)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let scored = self
                .chunks()
                .map(|rows| self.scored_on_cuda(&self.logits(x, &known, &rows)?, rows));
            return Tensor::cat(&scored.collect::<Result<Vec<_>>>()?, 0);
        }
        for_dtype!(x.dtype(), "head-logprobs", F => {
            let mut values: Vec<F> = Vec::with_capacity(self.targets.len());
            for rows in self.chunks() {
                let logits = self.logits(x, &known, &rows)?;
                with_elements::<F, _, 1>([&logits], |[logits]| {
                    for (row, at) in logits.chunks_exact(self.ids).zip(rows) {
                        let target = self.targets[at];
                        let score = Score::of(row, self, target);
                        values.push(F::from_f64(score.logprob(row, self, target)));
                    }
                    Ok(())
                })?;
            }
            Tensor::from_vec(values, self.targets.len(), x.device())
        })
    }

    /// The gradient `[N,d]` of `x`, for a loss with these slopes towards the `[N]` results; the
    /// head's goes to `blocks`, piece by piece.
    pub(crate) fn backward(
        &self,
        (x, head): (&Tensor, &Tensor),
        slopes: &[f64],
        mut blocks: Option<Blocks<'_>>,
    ) -> Result<Tensor> {
        let known = self.known(x, head)?; // [ids,d]
        let block_rows = (BLOCK / head.dim(1)?).max(1);
        let mut grad_x = Vec::new();
        for rows in self.chunks() {
            let grad = self.logits(x, &known, &rows)?; // [n,ids]
            self.slope(&grad, slopes, &rows)?;
            let grad = grad.to_dtype(x.dtype())?;
            grad_x.push(grad.matmul(&known)?);
            let Some(add) = blocks.as_mut() else { continue };
            let x = x.narrow(0, rows.start, rows.len())?;
            for first in (0..self.ids).step_by(block_rows) {
                let count = block_rows.min(self.ids - first);
                // cuBLAS is given no matrix whose rows are further apart than they are long.
                let piece = grad.narrow(1, first, count)?.contiguous()?; // [n,count]
                add(first, &piece.t()?.matmul(&x)?)?;
            }
        }
        match grad_x.len() {
            0 => x.zeros_like(),
            _ => Tensor::cat(&grad_x, 0),
        }
    }
}

/// Turns the logits of a chunk into the gradient towards them.
struct Slopes<'a> {
    plan: &'a HeadPlan,
    slopes: &'a [f64],
    rows: &'a Range<usize>,
}

impl InplaceOp1 for Slopes<'_> {
    fn name(&self) -> &'static str {
        "head-slopes"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{} needs contiguous logits", self.name());
        };
        match storage {
            CpuStorage::F32(logits) => self.run(&mut logits[start..end]),
            CpuStorage::F64(logits) => self.run(&mut logits[start..end]),
            other => bail!("{} needs f32 or f64, not {:?}", self.name(), other.dtype()),
        }
        Ok(())
    }
}

impl Slopes<'_> {
    fn run<F: Real>(&self, logits: &mut [F]) {
        let targets = &self.plan.targets[self.rows.clone()];
        let rows = logits.chunks_exact_mut(self.plan.ids).zip(targets).zip(self.slopes);
        rows.for_each(|((row, target), slope)| slope_row(row, self.plan, *target, *slope));
    }
}

/// One row, looked at from its largest logit.
struct Score<F> {
    max: F,
    /// Σ exp((z − max)/T) over all ids …
    all: f64,
    /// … and over what the target counts.
    own: f64,
    /// The target is one of several stops.
    is_end: bool,
}

impl<F: Real> Score<F> {
    fn of(logits: &[F], plan: &HeadPlan, target: u32) -> Self {
        let max = largest(logits);
        let scale = 1.0 / plan.temperature;
        let all = sum_exp(logits, F::from_f64(scale), max);
        let is_end = plan.stops.len() > 1 && plan.stops.contains(&target);
        let mut score = Self { max, all, own: 0.0, is_end };
        let weight = |id: &u32| score.log_weight(logits, *id, scale).exp();
        score.own = match is_end {
            true => plan.stops.iter().map(weight).sum(),
            false => weight(&target),
        };
        score
    }

    fn log_weight(&self, logits: &[F], id: u32, scale: f64) -> f64 {
        (logits[id as usize].to_f64() - self.max.to_f64()) * scale
    }

    fn logprob(&self, logits: &[F], plan: &HeadPlan, target: u32) -> f64 {
        let own = match self.is_end {
            true => self.own.ln(),
            // Not through its exponential, which may be 0.
            false => self.log_weight(logits, target, 1.0 / plan.temperature),
        };
        own - self.all.ln()
    }
}

/// With p the softmax of z/T and q the share of each id in what the target counts:
/// d log-probability / dz = (q − p)/T.
fn slope_row<F: Real>(logits: &mut [F], plan: &HeadPlan, target: u32, slope: f64) {
    let score = Score::of(logits, plan, target);
    let scale = 1.0 / plan.temperature;
    let by = slope * scale;
    let share = |id: &u32| {
        let weight = score.log_weight(logits, *id, scale).exp();
        (*id as usize, by * weight / score.own)
    };
    let shares: Vec<(usize, f64)> = match score.is_end {
        true => plan.stops.iter().map(share).collect(),
        false => vec![(target as usize, by)],
    };
    let (scale, minus) = (F::from_f64(scale), F::from_f64(-by / score.all));
    for z in logits.iter_mut() {
        *z = minus * ((*z - score.max) * scale).exp();
    }
    for (id, share) in shares {
        logits[id] += F::from_f64(share);
    }
}
