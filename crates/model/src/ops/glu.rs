//! The gated linear unit with its gradient (Shazeer 2020, §2): act(gate) · up, where act(x) is
//! x · sigmoid(z(x)) for a z of its own.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::composed::glu_backward;
use super::kernels::Real;
use super::{Rows, for_dtype, rows, with_elements};
use crate::Activation;

/// Both `[N, ff]`, each also a part of the columns of a wider tensor.
pub(crate) fn glu(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate.apply_op2(up, Glu(activation))
}

struct Glu(Activation);

impl CustomOp2 for Glu {
    fn name(&self) -> &'static str {
        "gated-linear-unit"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = for_dtype!(gate.dtype(), self.name(), F => {
            let (gate, up) = (rows::<F>(gate, gate_layout)?, rows::<F>(up, up_layout)?);
            let mut out = vec![0.0; gate_layout.shape().elem_count()];
            match self.0 {
                Activation::Silu => forward::<F, Silu>(&gate, &up, &mut out),
                Activation::GeluTanh => forward::<F, GeluTanh>(&gate, &up, &mut out),
            }
            candle_core::WithDType::to_cpu_storage_owned(out)
        });
        Ok((out, gate_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::cuda::glu((gate, gate_layout), (up, up_layout), self.0)
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if !gate.device().is_cpu() {
            let (grad_gate, grad_up) = glu_backward((gate, up), grad, self.0)?;
            return Ok((Some(grad_gate), Some(grad_up)));
        }
        for_dtype!(gate.dtype(), self.name(), F => {
            with_elements::<F, _, 3>([gate, up, grad], |inputs| {
                let mut grads = [vec![0.0; inputs[0].len()], vec![0.0; inputs[1].len()]];
                let [grad_gate, grad_up] = &mut grads;
                match self.0 {
                    Activation::Silu => backward::<F, Silu>(inputs, grad_gate, grad_up),
                    Activation::GeluTanh => backward::<F, GeluTanh>(inputs, grad_gate, grad_up),
                }
                let tensor = |grad| Tensor::from_vec(grad, gate.shape(), gate.device());
                let [grad_gate, grad_up] = grads;
                Ok((Some(tensor(grad_gate)?), Some(tensor(grad_up)?)))
            })
        })
    }
}

/// z(x) and its slope.
trait Gate<F> {
    fn z(x: F) -> F;
    fn slope(x: F) -> F;
}

/// silu(x) = x · sigmoid(x).
struct Silu;

impl<F: Real> Gate<F> for Silu {
    #[inline(always)]
    fn z(x: F) -> F {
        x
    }

    #[inline(always)]
    fn slope(_x: F) -> F {
        F::one()
    }
}

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))) (Hendrycks & Gimpel 2016, §2), and
/// (1 + tanh(u))/2 = sigmoid(2u).
struct GeluTanh;

/// 2·√(2/π)
const TWICE: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
const CUBE: f64 = 0.044_715;

impl<F: Real> Gate<F> for GeluTanh {
    #[inline(always)]
    fn z(x: F) -> F {
        F::from_f64(TWICE) * x * (F::one() + F::from_f64(CUBE) * x * x)
    }

    #[inline(always)]
    fn slope(x: F) -> F {
        F::from_f64(TWICE) * (F::one() + F::from_f64(3.0 * CUBE) * x * x)
    }
}

#[inline(always)]
fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (F::zero() - x).exp())
}

fn forward<F: Real, G: Gate<F>>(gate: &Rows<'_, F>, up: &Rows<'_, F>, out: &mut [F]) {
    for ((gate, up), out) in gate.iter().zip(up.iter()).zip(out.chunks_exact_mut(gate.width)) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = *gate * sigmoid(G::z(*gate)) * *up;
        }
    }
}

/// act'(x) = s·(1 + x·z'(x)·(1 − s)) with s = sigmoid(z(x)).
fn backward<F: Real, G: Gate<F>>(
    [gate, up, grad]: [&[F]; 3],
    grad_gate: &mut [F],
    grad_up: &mut [F],
) {
    for i in 0..grad.len() {
        let s = sigmoid(G::z(gate[i]));
        grad_up[i] = grad[i] * gate[i] * s;
        let slope = G::slope(gate[i]);
        grad_gate[i] = grad[i] * up[i] * s * (F::one() + gate[i] * slope * (F::one() - s));
    }
}
