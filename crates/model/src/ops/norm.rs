//! RMSNorm with its gradient (Zhang & Sennrich 2019, eq. 4): y = w · x / sqrt(mean(x²) + eps).

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::composed::rms_norm_backward;
use super::kernels::{Real, dot};
use super::{elements, for_dtype, with_elements};

/// `x` is `[.., d]`, `weight` `[d]`; f32 where `x` is narrower.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, RmsNorm { eps })
}

struct RmsNorm {
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = for_dtype!(x.dtype(), self.name(), F => {
            let (x, w) = (elements::<F>(x, x_layout)?, elements::<F>(w, w_layout)?);
            let mut out = vec![0.0; x.len()];
            forward(x, w, self.eps, &mut out);
            candle_core::WithDType::to_cpu_storage_owned(out)
        });
        Ok((out, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        w: &CudaStorage,
        w_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::cuda::rms_norm((x, x_layout), (w, w_layout), self.eps)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if !x.device().is_cpu() {
            let (grad_x, grad_w) = rms_norm_backward((x, w), grad, self.eps)?;
            return Ok((Some(grad_x), Some(grad_w)));
        }
        for_dtype!(x.dtype(), self.name(), F => {
            with_elements::<F, _, 3>([x, w, grad], |[xs, ws, gs]| {
                let mut grad_x = vec![0.0; xs.len()];
                let mut grad_w = vec![0.0; ws.len()];
                backward((xs, ws, gs), self.eps, &mut grad_x, &mut grad_w);
                let grad_x = Tensor::from_vec(grad_x, x.shape(), x.device())?;
                let grad_w = Tensor::from_vec(grad_w, w.shape(), w.device())?;
                Ok((Some(grad_x), w.track_op().then_some(grad_w)))
            })
        })
    }
}

#[inline(always)]
fn inverse_rms<F: Real>(x: &[F], eps: f64) -> F {
    let mean = dot(x, x) / F::from_f64(x.len() as f64);
    F::one() / (mean + F::from_f64(eps)).sqrt()
}

fn forward<F: Real>(x: &[F], w: &[F], eps: f64, out: &mut [F]) {
    for (x, out) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
        let r = inverse_rms(x, eps);
        for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
            *out = *x * r * *w;
        }
    }
}

/// With r = 1/rms: dL/dx = r·g·w − x · r³/d · Σ(g·w·x), dL/dw = Σ g·x·r.
fn backward<F: Real>((x, w, g): (&[F], &[F], &[F]), eps: f64, grad_x: &mut [F], grad_w: &mut [F]) {
    let d = w.len();
    let rows = x.chunks_exact(d).zip(g.chunks_exact(d)).zip(grad_x.chunks_exact_mut(d));
    for ((x, g), grad_x) in rows {
        let r = inverse_rms(x, eps);
        for i in 0..d {
            grad_x[i] = g[i] * w[i];
            grad_w[i] += g[i] * x[i] * r;
        }
        let shared = dot(grad_x, x) * r * r / F::from_f64(d as f64);
        for (grad_x, x) in grad_x.iter_mut().zip(x) {
            *grad_x = r * (*grad_x - *x * shared);
        }
    }
}
