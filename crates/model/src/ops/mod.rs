//! Operations with a hand-written backward for the CPU, where candle's composed ones cost several
//! passes over memory and its fused ones drop the gradient. On CUDA
//! the forward is a kernel, and the backward one or tensor operations (`composed`).

mod adapted;
mod attention;
mod composed;
mod glu;
mod head;
mod kernels;
mod linear;
mod norm;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

pub(crate) use adapted::adapted_linear;
pub(crate) use attention::{AttentionPlan, Query, attention};
pub(crate) use glu::glu;
pub(crate) use head::{HeadPlan, head_logprobs};
pub(crate) use kernels::{Real, attend, rotate};
pub(crate) use linear::linear;
pub(crate) use norm::rms_norm;

/// The elements of a contiguous tensor on the CPU.
fn elements<'a, F: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [F]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&F::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("a contiguous tensor is needed, found strides {:?}", layout.stride()),
    }
}

/// A `[N, width]` view whose rows are contiguous, such as some columns of a wider tensor.
struct Rows<'a, F> {
    elements: &'a [F],
    stride: usize,
    width: usize,
}

impl<F> Rows<'_, F> {
    fn iter(&self) -> impl Iterator<Item = &[F]> {
        self.elements.chunks(self.stride).map(|row| &row[..self.width])
    }
}

fn rows<'a, F: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<Rows<'a, F>> {
    match (layout.dims(), layout.stride()) {
        (&[n, width], &[stride, 1]) if n > 0 && width > 0 => {
            let start = layout.start_offset();
            let end = start + (n - 1) * stride + width;
            Ok(Rows { elements: &F::cpu_storage_as_slice(storage)?[start..end], stride, width })
        }
        (shape, strides) => {
            bail!("rows of contiguous elements are needed, found {shape:?} by {strides:?}")
        }
    }
}

/// Calls `f` with the elements of CPU tensors, made contiguous where they are not.
pub(crate) fn with_elements<F: Real, T, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[F]; N]) -> Result<T>,
) -> Result<T> {
    let tensors = tensors.into_iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[F]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slice = match &**storage {
            Storage::Cpu(cpu) => elements(cpu, layout)?,
            _ => bail!("tensors on the cpu are needed"),
        };
    }
    f(slices)
}

/// Runs a function that is generic over the element type for the type of a tensor.
macro_rules! for_dtype {
    ($dtype:expr, $name:expr, $F:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $F = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $F = f64;
                $body
            }
            other => {
                candle_core::bail!("{} computes in f32 or f64 on the cpu, not {other:?}", $name)
            }
        }
    };
}
pub(crate) use for_dtype;
