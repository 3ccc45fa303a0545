//! x·Wᵀ + b. A weight that is not trained costs no gradient: candle would compute one all the same.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, WithDType, bail};

use super::{Real, elements, for_dtype};

/// `x` is `[N,in]`, `weight` `[out,in]`, `bias` `[out]`. Gives `[N,out]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let frozen = !weight.track_op() && bias.is_none_or(|bias| !bias.track_op());
    if frozen && x.track_op() {
        let frozen = Frozen { weight: weight.clone(), bias: bias.cloned() };
        return x.contiguous()?.apply_op1(frozen);
    }
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// A function of x alone.
struct Frozen {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, input) = layout.shape().dims2()?;
        let out = self.weight.dim(0)?;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { bail!("{} needs one device", self.name()) };
        let turned = weight_layout.transpose(0, 1)?;
        let mut y = x.matmul(weight, (1, n, out, input), layout, &turned)?;
        if let Some(bias) = &self.bias {
            let (bias, bias_layout) = bias.storage_and_layout();
            let Storage::Cpu(bias) = &*bias else { bail!("{} needs one device", self.name()) };
            y = for_dtype!(y.dtype(), self.name(), F => {
                let bias = elements::<F>(bias, bias_layout)?;
                let mut sums = F::cpu_storage_as_slice(&y)?.to_vec();
                add_to_rows(&mut sums, bias);
                WithDType::to_cpu_storage_owned(sums)
            });
        }
        Ok((y, Shape::from((n, out))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (n, input) = layout.shape().dims2()?;
        let out = self.weight.dim(0)?;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else { bail!("{} needs one device", self.name()) };
        let turned = weight_layout.transpose(0, 1)?;
        let y = x.matmul(weight, (1, n, out, input), layout, &turned)?;
        let shape = Shape::from((n, out));
        let Some(bias) = &self.bias else { return Ok((y, shape)) };
        let (bias, bias_layout) = bias.storage_and_layout();
        let Storage::Cuda(bias) = &*bias else { bail!("{} needs one device", self.name()) };
        let rows = bias_layout.broadcast_as(&shape)?;
        let y = y.binary_impl::<candle_core::op::Add>(bias, &Layout::contiguous(&shape), &rows)?;
        Ok((y, shape))
    }

    fn bwd(&self, _x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.matmul(&self.weight.detach())?))
    }
}

fn add_to_rows<F: Real>(rows: &mut [F], bias: &[F]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += *b);
    }
}
