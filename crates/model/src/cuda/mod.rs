//! The operations of this crate on CUDA, out of the kernels of `device`: which memory goes where.
//! What an operation means is written beside its CPU form in `ops`, `decode` and `draw`.

mod attention;
mod cache;
mod draw;
mod head;
mod layers;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use device::{Arg, Call, Numbers, Pointer};

pub(crate) use attention::{attention, attention_backward};
pub(crate) use cache::CudaCache;
pub(crate) use draw::draw;
pub(crate) use head::{add_to_rows, scores, slopes};
pub(crate) use layers::{glu, logits, rms_norm};

/// What the kernels call an element type.
fn numbers(dtype: DType) -> Result<Numbers> {
    match dtype {
        DType::F32 => Ok(Numbers::F32),
        DType::BF16 => Ok(Numbers::Bf16),
        DType::F16 => Ok(Numbers::F16),
        other => bail!("on cuda f32, bf16 or f16 is computed in, not {other:?}"),
    }
}

/// The address of a contiguous operand.
fn contiguous(storage: &CudaStorage, layout: &Layout) -> Result<Pointer> {
    match layout.is_contiguous() {
        true => device::pointer(storage, layout),
        false => bail!("a contiguous tensor is needed, found strides {:?}", layout.stride()),
    }
}

/// The address of a `[N, width]` operand with contiguous rows, and how far apart they begin.
fn rows(storage: &CudaStorage, layout: &Layout) -> Result<(Pointer, u32)> {
    match (layout.dims(), layout.stride()) {
        (&[_, width], &[stride, 1]) if stride >= width => {
            Ok((device::pointer(storage, layout)?, size(stride)?))
        }
        (&[n, width], _) if n <= 1 || layout.is_contiguous() => {
            Ok((device::pointer(storage, layout)?, size(width)?))
        }
        (shape, strides) => {
            bail!("rows of contiguous elements are needed, found {shape:?} by {strides:?}")
        }
    }
}

fn size(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(candle_core::Error::wrap)
}

/// The address of what a kernel is to fill.
fn whole(storage: &CudaStorage) -> Result<Pointer> {
    device::pointer(storage, &Layout::contiguous(0))
}

fn into_tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// Tables of u32 on the device, uploaded again only where they have changed: the layers of one
/// forward pass share them.
#[derive(Default)]
struct Table(Option<(Vec<u32>, CudaStorage)>);

impl Table {
    fn pointer(&mut self, device: &CudaDevice, values: Vec<u32>) -> Result<Pointer> {
        if self.0.as_ref().is_none_or(|(known, _)| *known != values) {
            let storage = device::upload(device, &values)?;
            self.0 = Some((values, storage));
        }
        let (_, storage) = self.0.as_ref().expect("it was put there");
        whole(storage)
    }
}

/// As [`device::launch`], on the device of a storage.
fn launch(beside: &CudaStorage, call: &Call<Pointer>) -> Result<()> {
    debug_assert!(call.args.iter().any(|arg| matches!(arg, Arg::Memory(_))));
    device::launch(beside.device(), call)
}
