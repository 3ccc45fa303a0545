//! SwiGLU with its gradient (Shazeer 2020, §2): silu(gate) · up, from both in one tensor.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::kernels::Real;
use super::{elements, for_dtype, with_elements};

/// `[N, 2·ff]`, gates first, to `[N, ff]`.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.contiguous()?.apply_op1(Swiglu)
}

struct Swiglu;

impl CustomOp1 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let &[n, twice] = layout.dims() else { bail!("swiglu needs [N, 2·ff]") };
        let out = for_dtype!(x.dtype(), self.name(), F => {
            let x = elements::<F>(x, layout)?;
            let mut out = vec![0.0; n * twice / 2];
            forward(x, twice / 2, &mut out);
            candle_core::WithDType::to_cpu_storage_owned(out)
        });
        Ok((out, Shape::from((n, twice / 2))))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dim(1)? / 2;
        for_dtype!(x.dtype(), self.name(), F => {
            with_elements::<F, _, 2>([x, grad], |[xs, gs]| {
                let mut grad_x = vec![0.0; xs.len()];
                backward(xs, gs, width, &mut grad_x);
                Ok(Some(Tensor::from_vec(grad_x, x.shape(), x.device())?))
            })
        })
    }
}

#[inline(always)]
fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (F::zero() - x).exp())
}

fn forward<F: Real>(x: &[F], width: usize, out: &mut [F]) {
    for (x, out) in x.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = x.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = *gate * sigmoid(*gate) * *up;
        }
    }
}

/// silu'(g) = s·(1 + g·(1 − s)) with s = sigmoid(g).
fn backward<F: Real>(x: &[F], g: &[F], width: usize, grad_x: &mut [F]) {
    let rows = x.chunks_exact(2 * width).zip(g.chunks_exact(width));
    for ((x, g), grad) in rows.zip(grad_x.chunks_exact_mut(2 * width)) {
        let (gate, up) = x.split_at(width);
        let (grad_gate, grad_up) = grad.split_at_mut(width);
        for i in 0..width {
            let s = sigmoid(gate[i]);
            grad_up[i] = g[i] * gate[i] * s;
            grad_gate[i] = g[i] * up[i] * s * (F::one() + gate[i] * (F::one() - s));
        }
    }
}
