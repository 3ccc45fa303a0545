//! SwiGLU with its gradient (Shazeer 2020, §2): silu(gate) · up.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::kernels::Real;
use super::{Rows, for_dtype, rows, with_elements};

/// Both `[N, ff]`, each also a part of the columns of a wider tensor.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, Swiglu)
}

struct Swiglu;

impl CustomOp2 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
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
            forward(&gate, &up, &mut out);
            candle_core::WithDType::to_cpu_storage_owned(out)
        });
        Ok((out, gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        for_dtype!(gate.dtype(), self.name(), F => {
            with_elements::<F, _, 3>([gate, up, grad], |inputs| {
                let mut grads = [vec![0.0; inputs[0].len()], vec![0.0; inputs[1].len()]];
                let [grad_gate, grad_up] = &mut grads;
                backward(inputs, grad_gate, grad_up);
                let tensor = |grad| Tensor::from_vec(grad, gate.shape(), gate.device());
                let [grad_gate, grad_up] = grads;
                Ok((Some(tensor(grad_gate)?), Some(tensor(grad_up)?)))
            })
        })
    }
}

#[inline(always)]
fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (F::zero() - x).exp())
}

fn forward<F: Real>(gate: &Rows<'_, F>, up: &Rows<'_, F>, out: &mut [F]) {
    for ((gate, up), out) in gate.iter().zip(up.iter()).zip(out.chunks_exact_mut(gate.width)) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = *gate * sigmoid(*gate) * *up;
        }
    }
}

/// silu'(x) = s·(1 + x·(1 − s)) with s = sigmoid(x).
fn backward<F: Real>([gate, up, grad]: [&[F]; 3], grad_gate: &mut [F], grad_up: &mut [F]) {
    for i in 0..grad.len() {
        let s = sigmoid(gate[i]);
        grad_up[i] = grad[i] * gate[i] * s;
        grad_gate[i] = grad[i] * up[i] * s * (F::one() + gate[i] * (F::one() - s));
    }
}
