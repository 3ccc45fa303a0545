//! The only code that leaves Rust's guarantees: opening a CUDA device, and giving kernels and cuBLAS
//! memory by its address. Everything runs on the device's one stream, in the order of the calls.
//!
//! Memory that a call was given may be dropped as soon as the call has returned: it is freed on the
//! same stream, after the kernel.
#![allow(unsafe_code, reason = "kernels and cuBLAS take addresses; nothing else is done here")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::{result::gemm_ex, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

use crate::{Arg, Call, KERNELS};

/// The module's name in candle's store of loaded ones.
const MODULE: &str = "tandem";

/// Where an element lies in the memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer(u64);

impl Pointer {
    /// So many bytes further on.
    #[must_use]
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// The first device of the process, with one stream for all threads.
pub(crate) fn open() -> Result<Device> {
    let device = Device::new_cuda_with_stream(0)?;
    // SAFETY: event tracking orders the streams of a device, and this process has one stream on it:
    // this device is opened once, and NCCL is given the same stream.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    ptx(device.as_cuda_device()?)?;
    Ok(device)
}

/// Runs a call on the device's stream, without waiting for it.
///
/// # Errors
/// A kernel that does not compile, a launch that the driver refuses.
pub fn launch(device: &CudaDevice, call: &Call<Pointer>) -> Result<()> {
    if call.grid.0 == 0 || call.grid.1 == 0 {
        return Ok(());
    }
    let function = device.get_or_load_custom_func(&call.kernel, MODULE, &ptx(device)?)?;
    let mut builder = function.builder();
    for arg in &call.args {
        match arg {
            Arg::Memory(Pointer(address)) => builder.arg(address),
            Arg::Nothing => builder.arg(&0u64),
            Arg::U32(x) => builder.arg(x),
            Arg::U64(x) => builder.arg(x),
            Arg::F32(x) => builder.arg(x),
            Arg::F64(x) => builder.arg(x),
        };
    }
    let config = LaunchConfig {
        grid_dim: (call.grid.0, call.grid.1, 1),
        block_dim: (call.threads, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the arguments are made by `calls` in the order and types of the kernel's parameters,
    // which the emulator of the tests checks; pointers come from live storage of the sizes that the
    // shapes beside them say, and freed memory is freed on this stream.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// The address of a tensor's first element; what lies where is the caller's to know.
///
/// # Errors
/// An element type that no kernel has.
pub fn pointer(storage: &CudaStorage, layout: &Layout) -> Result<Pointer> {
    fn start<T>(slice: &CudaSlice<T>, offset: usize) -> Pointer {
        // One stream, no events: there is nothing to be recorded when the guard is dropped.
        let (address, _guard) = slice.device_ptr(slice.stream());
        Pointer(address).plus(offset * size_of::<T>())
    }
    let offset = layout.start_offset();
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => start(slice, offset),
        CudaStorageSlice::BF16(slice) => start(slice, offset),
        CudaStorageSlice::F16(slice) => start(slice, offset),
        CudaStorageSlice::F64(slice) => start(slice, offset),
        CudaStorageSlice::U32(slice) => start(slice, offset),
        CudaStorageSlice::I64(slice) => start(slice, offset),
        CudaStorageSlice::U8(slice) => start(slice, offset),
        _ => bail!("no kernel takes this element type"),
    })
}

/// The same of a tensor on CUDA. A kernel that writes there changes every tensor that shares the
/// storage: only buffers that are made for it may be written.
///
/// # Errors
/// A tensor on another device, or of an element type that no kernel has.
pub fn of_tensor(tensor: &Tensor) -> Result<Pointer> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => pointer(storage, layout),
        _ => bail!("a tensor on cuda is needed"),
    }
}

/// Memory that a kernel is to fill; `count` is in elements.
///
/// # Errors
/// No memory on the device, or an element type that no kernel has.
pub fn empty(device: &CudaDevice, dtype: DType, count: usize) -> Result<CudaStorage> {
    fn of<T: CudaDType + DeviceRepr>(device: &CudaDevice, count: usize) -> Result<CudaStorage> {
        // Some drivers refuse to allocate nothing.
        // SAFETY: the elements are plain numbers, and the caller's kernel writes all of them.
        let slice = unsafe { device.alloc::<T>(count.max(1)) }?;
        Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
    }
    match dtype {
        DType::F32 => of::<f32>(device, count),
        DType::BF16 => of::<half::bf16>(device, count),
        DType::F16 => of::<half::f16>(device, count),
        DType::F64 => of::<f64>(device, count),
        DType::U32 => of::<u32>(device, count),
        other => bail!("no kernel fills memory of {other:?}"),
    }
}

/// Small tables of u32 for a kernel, `[count]`.
///
/// # Errors
/// No memory on the device.
pub fn upload(device: &CudaDevice, values: &[u32]) -> Result<CudaStorage> {
    Ok(CudaStorage::wrap_cuda_slice(device.clone_htod(values)?, device.clone()))
}

/// `x · wᵀ` in f32 from bf16 or f16, without rounding the products' sums: `x` `[n,k]`, `w` `[v,k]`,
/// `out` f32 `[n,v]`; `sizes` is (n, k, v).
///
/// # Errors
/// Sizes beyond i32, or cuBLAS refuses.
pub fn matmul_f32(
    device: &CudaDevice,
    out: Pointer,
    (x, w): (Pointer, Pointer),
    sizes: (usize, usize, usize),
    dtype: DType,
) -> Result<()> {
    if sizes.0 == 0 {
        return Ok(());
    }
    let int = |n: usize| i32::try_from(n).map_err(candle_core::Error::wrap);
    let (n, k, v) = (int(sizes.0)?, int(sizes.1)?, int(sizes.2)?);
    let kind = match dtype {
        DType::BF16 => cublas::cudaDataType::CUDA_R_16BF,
        DType::F16 => cublas::cudaDataType::CUDA_R_16F,
        DType::F32 => cublas::cudaDataType::CUDA_R_32F,
        other => bail!("no product of {other:?} in f32"),
    };
    let (one, zero) = (1.0f32, 0.0f32);
    let blas = device.cublas_handle();
    // SAFETY: cuBLAS counts columns first: outᵀ [v,n] = w [v,k] · xᵀ [k,n]. All three are contiguous
    // storage of these sizes, which live until the call is queued on the device's stream.
    unsafe {
        gemm_ex(
            *blas.handle(),
            cublas::cublasOperation_t::CUBLAS_OP_T,
            cublas::cublasOperation_t::CUBLAS_OP_N,
            v,
            n,
            k,
            (&raw const one).cast(),
            w.0 as *const _,
            kind,
            k,
            x.0 as *const _,
            kind,
            k,
            (&raw const zero).cast(),
            out.0 as *mut _,
            cublas::cudaDataType::CUDA_R_32F,
            v,
            cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// The kernels for the device's generation, compiled once in a process.
fn ptx(device: &CudaDevice) -> Result<Arc<str>> {
    static COMPILED: Mutex<BTreeMap<(i32, i32), Arc<str>>> = Mutex::new(BTreeMap::new());
    let capability = device.cuda_stream().context().compute_capability().w()?;
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ptx) = compiled.get(&capability) {
        return Ok(Arc::clone(ptx));
    }
    let (major, minor) = capability;
    let options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
    let options = CompileOptions { options, ..CompileOptions::default() };
    let ptx: Arc<str> = compile_ptx_with_opts(KERNELS, options).w()?.to_src().into();
    compiled.insert(capability, Arc::clone(&ptx));
    Ok(ptx)
}
