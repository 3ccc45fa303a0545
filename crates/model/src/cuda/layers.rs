//! Norms, gated units and the head.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor, bail};
use device::{Gated, RmsNorm};

use super::{contiguous, into_tensor, launch, numbers, rows, size, whole};
use crate::Activation;

/// See `ops::rms_norm`.
pub(crate) fn rms_norm(
    (x, x_layout): (&CudaStorage, &Layout),
    (w, w_layout): (&CudaStorage, &Layout),
    eps: f64,
) -> Result<(CudaStorage, Shape)> {
    let (count, width) = (x_layout.shape().elem_count(), w_layout.shape().elem_count());
    if w.dtype() != DType::F32 || width == 0 || !count.is_multiple_of(width) {
        bail!("a norm of {:?} {count} numbers by {:?} {width}", x.dtype(), w.dtype());
    }
    let y = device::empty(x.device(), x.dtype(), count)?;
    let call = RmsNorm {
        y: whole(&y)?,
        x: contiguous(x, x_layout)?,
        weight: contiguous(w, w_layout)?,
        rows: size(count / width)?,
        width: size(width)?,
        eps: eps as f32,
        numbers: numbers(x.dtype())?,
    };
    launch(x, &call.call())?;
    Ok((y, x_layout.shape().clone()))
}

/// See `ops::glu`.
pub(crate) fn glu(
    (gate, gate_layout): (&CudaStorage, &Layout),
    (up, up_layout): (&CudaStorage, &Layout),
    activation: Activation,
) -> Result<(CudaStorage, Shape)> {
    let (n, width) = gate_layout.shape().dims2()?;
    if gate_layout.shape() != up_layout.shape() || gate.dtype() != up.dtype() {
        bail!("gates {:?} do not fit {:?}", gate_layout.shape(), up_layout.shape());
    }
    let y = device::empty(gate.device(), gate.dtype(), n * width)?;
    let ((gates, gates_width), (ups, ups_width)) = (rows(gate, gate_layout)?, rows(up, up_layout)?);
    let call = Gated {
        y: whole(&y)?,
        gates,
        ups,
        rows: n as u64,
        width: size(width)?,
        gates_width,
        ups_width,
        gelu: activation == Activation::GeluTanh,
        numbers: numbers(gate.dtype())?,
    };
    launch(gate, &call.call())?;
    Ok((y, gate_layout.shape().clone()))
}

/// Logits `[n,V]` in f32 from hidden states `[n,d]` and a head `[V,d]` of the same type: the sums
/// are not rounded to it.
pub(crate) fn logits(x: &Tensor, head: &Tensor) -> Result<Tensor> {
    let ((n, k), (v, width)) = (x.dims2()?, head.dims2()?);
    if k != width || x.dtype() != head.dtype() {
        bail!("a head of {:?} {width} for states of {:?} {k}", head.dtype(), x.dtype());
    }
    let (x, head) = (x.contiguous()?, head.contiguous()?);
    let device = x.device().as_cuda_device()?;
    let out = device::empty(device, DType::F32, n * v)?;
    let operands = (device::of_tensor(&x)?, device::of_tensor(&head)?);
    device::matmul_f32(device, whole(&out)?, operands, (n, k, v), x.dtype())?;
    Ok(into_tensor(out, (n, v)))
}
