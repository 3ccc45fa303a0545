//! A flat buffer of f32 where its variables are: on the host, or on a CUDA device, whose kernels
//! then add, square and scale it. What the numbers mean is not known here.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use crate::Error;

#[derive(Clone, Debug)]
pub(crate) enum Flat {
    /// Whoever else reads them keeps what they were: a change copies them then.
    Host(Arc<Vec<f32>>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaFlat),
}

impl Flat {
    /// # Errors
    /// No memory on the device.
    pub(crate) fn zeros(len: usize, device: &Device) -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(_) = device {
            return Ok(Self::Cuda(cuda::CudaFlat::zeros(len, device)?));
        }
        debug_assert!(device.is_cpu(), "other devices than CUDA's have their numbers on the host");
        Ok(Self::Host(Arc::new(vec![0.0; len])))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => flat.len(),
        }
    }

    /// The numbers, copied from a device.
    pub(crate) fn to_host(&self) -> Result<Cow<'_, [f32]>, Error> {
        match self {
            Self::Host(values) => Ok(values.as_slice().into()),
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => Ok(flat.to_host()?.into()),
        }
    }

    /// The numbers as they are now, whatever becomes of them here.
    pub(crate) fn shared(&self) -> Result<Arc<Vec<f32>>, Error> {
        match self {
            Self::Host(values) => Ok(Arc::clone(values)),
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => Ok(Arc::new(flat.to_host()?)),
        }
    }

    /// Puts numbers in the place of all.
    pub(crate) fn set(&mut self, from: Vec<f32>) -> Result<(), Error> {
        debug_assert_eq!(from.len(), self.len());
        match self {
            Self::Host(values) => *values = Arc::new(from),
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => flat.set(&from)?,
        }
        Ok(())
    }

    /// Calls `change` with the numbers on the host; what it leaves is taken back, and nothing where it
    /// fails. Meanwhile the device has room for whoever exchanges them.
    pub(crate) fn on_host<T, E: From<Error>>(
        &mut self,
        change: impl FnOnce(&mut [f32]) -> Result<T, E>,
    ) -> Result<T, E> {
        match self {
            Self::Host(values) => change(Arc::make_mut(values).as_mut_slice()),
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => {
                let mut values = flat.to_host().map_err(Error::from)?;
                flat.free().map_err(Error::from)?;
                let outcome = change(&mut values);
                match &outcome {
                    Ok(_) => flat.set(&values).map_err(Error::from)?,
                    // Why it failed says more than that the device has failed, too.
                    Err(_) => drop(flat.clear(values.len())),
                }
                outcome
            }
        }
    }

    /// Adds a tensor of any shape to the numbers from `start` on.
    ///
    /// # Errors
    /// It has other than `len` numbers.
    pub(crate) fn add(&mut self, place: Range<usize>, part: &Tensor) -> Result<(), Error> {
        if part.elem_count() != place.len() {
            let (found, expected) = (part.elem_count(), place.len());
            return Err(Error::Length { what: "gradient of a variable", found, expected });
        }
        match self {
            Self::Host(values) => add_values(&mut Arc::make_mut(values)[place], part),
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => Ok(flat.add(place.start, part)?),
        }
    }

    /// Adds row i of a part on a CUDA device to the i-th of `rows` of the table from `start` on.
    ///
    /// # Errors
    /// The numbers are on the host.
    pub(crate) fn add_rows_on_device(
        &mut self,
        start: usize,
        rows: &[u32],
        part: &Tensor,
    ) -> Result<(), Error> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) if !rows.is_empty() => Ok(flat.add_rows(start, rows, part)?),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Ok(()),
            Self::Host(_) => {
                let (device, count) = (part.device(), rows.len());
                let what = format!("{count} rows from {device:?} at {start} of a sum on the host");
                Err(candle_core::Error::Msg(what).into())
            }
        }
    }

    /// Σ of squares of a part, in f64; not finite where a number is not.
    pub(crate) fn squares(&self, part: &Range<usize>) -> Result<f64, Error> {
        match self {
            Self::Host(values) => {
                Ok(values[part.clone()].iter().map(|value| f64::from(*value).powi(2)).sum())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => Ok(flat.squares(part)?),
        }
    }

    pub(crate) fn scale(&mut self, part: &Range<usize>, by: f32) -> Result<(), Error> {
        match self {
            Self::Host(values) => {
                let values = &mut Arc::make_mut(values)[part.clone()];
                values.iter_mut().for_each(|value| *value *= by);
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(flat) => flat.scale(part, by)?,
        }
        Ok(())
    }
}

fn add_values(sum: &mut [f32], part: &Tensor) -> Result<(), Error> {
    let part = part.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = part.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    {
        sum.iter_mut().zip(&values[start..end]).for_each(|(sum, value)| *sum += value);
        return Ok(());
    }
    drop(storage);
    let values = part.flatten_all()?.to_vec1::<f32>()?;
    sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
    Ok(())
}

#[cfg(feature = "cuda")]
pub(crate) mod cuda {
    //! The buffer as a tensor that kernels write in place; nothing else holds it.

    use std::ops::Range;

    use candle_core::{DType, Device, Layout, Result, Tensor, bail};
    use device::{
        AccumulateRows, Elements, Numbers, Piece, Pointer, RowSpans, accumulate, scale,
        sum_of_squares,
    };

    #[derive(Debug)]
    pub(crate) struct CudaFlat(Tensor);

    impl Clone for CudaFlat {
        /// Other memory, so that a kernel never writes what a copy reads.
        fn clone(&self) -> Self {
            Self(self.0.copy().expect("there is memory for a copy of the buffer"))
        }
    }

    impl CudaFlat {
        pub(crate) fn zeros(len: usize, device: &Device) -> Result<Self> {
            Ok(Self(Tensor::zeros(len, DType::F32, device)?))
        }

        pub(crate) fn len(&self) -> usize {
            self.0.elem_count()
        }

        /// For a collective that sums on the device.
        pub(crate) fn tensor(&self) -> &Tensor {
            &self.0
        }

        pub(crate) fn to_host(&self) -> Result<Vec<f32>> {
            self.0.to_vec1()
        }

        /// Holds one number until it is set: devices lend no memory of no size.
        pub(crate) fn free(&mut self) -> Result<()> {
            self.0 = Tensor::zeros(1, DType::F32, self.0.device())?;
            Ok(())
        }

        /// As many zeros.
        pub(crate) fn clear(&mut self, len: usize) -> Result<()> {
            self.0 = Tensor::zeros(len, DType::F32, self.0.device())?;
            Ok(())
        }

        pub(crate) fn set(&mut self, values: &[f32]) -> Result<()> {
            self.0 = Tensor::from_slice(values, values.len(), self.0.device())?;
            Ok(())
        }

        pub(crate) fn at(&self, element: usize) -> Result<Pointer> {
            Ok(device::of_tensor(&self.0)?.plus(element * size_of::<f32>()))
        }

        pub(crate) fn add(&mut self, start: usize, part: &Tensor) -> Result<()> {
            let part = part.contiguous()?;
            let sum = Piece { start: self.at(start)?, count: part.elem_count() as u64 };
            device::launch(self.0.device().as_cuda_device()?, &accumulate(sum, elements(&part)?))
        }

        /// `rows` is not empty; `part` has as many.
        pub(crate) fn add_rows(&mut self, start: usize, rows: &[u32], part: &Tensor) -> Result<()> {
            let part = part.contiguous()?;
            let cuda = self.0.device().as_cuda_device()?;
            let RowSpans { order, spans } = RowSpans::of(rows);
            let tables =
                [device::upload(cuda, &order)?, device::upload(cuda, spans.as_flattened())?];
            let at = |at: usize, len| device::pointer(&tables[at], &Layout::contiguous(len));
            let call = AccumulateRows {
                sum: self.at(start)?,
                x: elements(&part)?,
                order: at(0, order.len())?,
                spans: at(1, 3 * spans.len())?,
                count: u32::try_from(spans.len()).map_err(candle_core::Error::wrap)?,
                width: u32::try_from(part.elem_count() / rows.len())
                    .map_err(candle_core::Error::wrap)?,
            };
            device::launch(cuda, &call.call())
        }

        pub(crate) fn squares(&self, part: &Range<usize>) -> Result<f64> {
            if part.is_empty() {
                return Ok(0.0);
            }
            let cuda = self.0.device().as_cuda_device()?;
            let x = Piece { start: self.at(part.start)?, count: part.len() as u64 };
            let blocks = sum_of_squares((), Piece { start: (), count: x.count }).grid.0 as usize;
            let sums = device::empty(cuda, DType::F64, blocks)?;
            let to = device::pointer(&sums, &Layout::contiguous(blocks))?;
            device::launch(cuda, &sum_of_squares(to, x))?;
            let sums = cuda.clone_dtoh(sums.as_cuda_slice::<f64>()?)?;
            Ok(sums.iter().sum())
        }

        pub(crate) fn scale(&mut self, part: &Range<usize>, by: f32) -> Result<()> {
            let x = Piece { start: self.at(part.start)?, count: part.len() as u64 };
            if part.is_empty() {
                return Ok(());
            }
            device::launch(self.0.device().as_cuda_device()?, &scale(x, by))
        }
    }

    /// Of a contiguous part.
    fn elements(part: &Tensor) -> Result<Elements<Pointer>> {
        let numbers = match part.dtype() {
            DType::F32 => Numbers::F32,
            DType::BF16 => Numbers::Bf16,
            DType::F16 => Numbers::F16,
            other => bail!("gradients of {other:?} are not added up on cuda"),
        };
        Ok(Elements { start: device::of_tensor(part)?, numbers })
    }
}
