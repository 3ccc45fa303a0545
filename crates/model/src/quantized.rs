//! A matrix in blocks of few bits: kept as the file has it, multiplied and looked up without being
//! unpacked. Which layers are made of such matrices is not known here.

#[cfg(target_arch = "x86_64")]
mod eight_bit;

use std::fmt;
use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::quantized::{GgmlDType, QMatMul, QuantizedType};
use candle_core::{Context, DType, Device, Module, Result, Storage, Tensor, bail};

use crate::gguf::RawTensor;
use crate::ops::with_elements;

/// `[out, in]`, multiplied as `x · Wᵀ`.
pub(crate) struct QuantizedMatrix {
    /// Rows that are multiplied, the first of all that there are.
    rows: usize,
    all_rows: usize,
    columns: usize,
    blocks: Arc<Blocks>,
}

enum Blocks {
    #[cfg(target_arch = "x86_64")]
    Eight(eight_bit::EightBit),
    /// Other types, or another CPU: candle's products over the blocks as they lie. Its `QMatMul` would
    /// keep a second, wider arrangement of most types beside them.
    Cpu(Box<dyn QuantizedType>),
    /// On another device.
    Device(QMatMul),
}

impl QuantizedMatrix {
    /// # Errors
    /// A tensor that is no matrix, or whose rows are no whole number of blocks.
    pub(crate) fn new(raw: RawTensor, device: &Device) -> Result<Self> {
        let &[rows, columns] = raw.shape.as_slice() else {
            bail!("a matrix is needed, found the shape {:?}", raw.shape)
        };
        let raw = widened(raw);
        if !columns.is_multiple_of(raw.dtype.block_size()) {
            let (kind, block) = (raw.dtype, raw.dtype.block_size());
            bail!("rows of {columns} values are no whole number of {kind:?} blocks of {block}")
        }
        let blocks = match device {
            Device::Cpu => Blocks::on_cpu(raw, columns),
            other => Blocks::on_device(raw, other)?,
        };
        Ok(Self { rows, all_rows: rows, columns, blocks: Arc::new(blocks) })
    }

    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The first `rows`, with the same memory.
    ///
    /// # Errors
    /// More rows than there are.
    pub(crate) fn first_rows(&self, rows: usize) -> Result<Self> {
        if rows > self.rows {
            bail!("{} rows have no first {rows}", self.rows)
        }
        Ok(Self { rows, blocks: self.blocks.clone(), ..*self })
    }

    /// `[N, in]` to `[N, out]`, both f32.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, columns) = x.dims2()?;
        if columns != self.columns {
            bail!("{columns} values meet a matrix of {} columns", self.columns)
        }
        match &*self.blocks {
            #[cfg(target_arch = "x86_64")]
            Blocks::Eight(matrix) => self.on_cpu(x, |x, out| {
                matrix.forward(x, self.rows, out);
                Ok(())
            }),
            Blocks::Cpu(blocks) => {
                self.on_cpu(x, |x, out| blocks.matmul_t((n, columns, self.rows), x, out))
            }
            Blocks::Device(matrix) => matrix.forward(x)?.narrow(1, 0, self.rows),
        }
    }

    /// `product` writes `[N, out]` of `x` `[N, in]`.
    fn on_cpu(
        &self,
        x: &Tensor,
        product: impl FnOnce(&[f32], &mut [f32]) -> Result<()>,
    ) -> Result<Tensor> {
        let n = x.dim(0)?;
        let mut out = vec![0f32; n * self.rows];
        with_elements::<f32, _, 1>([x], |[x]| product(x, &mut out))?;
        Tensor::from_vec(out, (n, self.rows), x.device())
    }

    /// The rows `ids`, `[N]` (u32), dequantised: `[N, in]`.
    pub(crate) fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        match &*self.blocks {
            #[cfg(target_arch = "x86_64")]
            Blocks::Eight(matrix) => {
                let ids = ids.to_vec1::<u32>()?;
                if let Some(id) = ids.iter().find(|id| **id as usize >= self.all_rows) {
                    bail!("row {id} is outside the {} rows", self.all_rows)
                }
                let out: Vec<f32> = ids.iter().flat_map(|id| matrix.row(*id as usize)).collect();
                Tensor::from_vec(out, (ids.len(), self.columns), &Device::Cpu)
            }
            Blocks::Cpu(blocks) => {
                let ids = ids.to_vec1::<u32>()?;
                let out = blocks.embedding(&ids, self.all_rows, self.columns)?;
                let shape = (ids.len(), self.columns);
                Ok(Tensor::from_storage(Storage::Cpu(out), shape, BackpropOp::none(), false))
            }
            Blocks::Device(matrix) => matrix.embedding(ids),
        }
    }
}

impl Blocks {
    /// # Errors
    /// A build without kernels for such a matrix: better known now than in the middle of a rollout.
    fn on_device(raw: RawTensor, device: &Device) -> Result<Self> {
        let (kind, columns) = (raw.dtype, raw.shape[1]);
        let matrix = QMatMul::from_qtensor(raw.build(device)?)?;
        let probe = Tensor::zeros((1, columns), DType::F32, device)?;
        let outcome = matrix.forward(&probe).and_then(|_| device.synchronize());
        outcome.with_context(|| {
            format!(
                "this program multiplies no {kind:?} matrix on the GPU: build it with a whole CUDA \
                 toolkit, or name a model whose weights are not quantised"
            )
        })?;
        Ok(Self::Device(matrix))
    }

    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "candle knows it"))]
    fn on_cpu(raw: RawTensor, columns: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if raw.dtype == GgmlDType::Q8_0
            && let Some(matrix) = eight_bit::EightBit::new(&raw.bytes, columns)
        {
            return Self::Eight(matrix);
        }
        Self::Cpu(raw.dtype.from_data(raw.bytes.into()))
    }
}

impl fmt::Debug for QuantizedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuantizedMatrix[{}, {}]", self.rows, self.columns)
    }
}

/// Five bits less 16 fit into eight, with the same scale: nothing is lost, and only one kind of row
/// has to be multiplied fast. candle multiplies Q5_0 on x86-64 a value at a time.
fn widened(raw: RawTensor) -> RawTensor {
    const FROM: usize = 22;
    const TO: usize = 34;
    if raw.dtype != GgmlDType::Q5_0 {
        return raw;
    }
    let mut bytes = Vec::with_capacity(raw.bytes.len() / FROM * TO);
    for block in raw.bytes.as_chunks::<FROM>().0 {
        let (scale, values) = block.split_at(2);
        let (high, low) = values.split_at(4);
        let high = u32::from_le_bytes(high.try_into().expect("four bytes were split off"));
        let value = |low: u8, at: usize| (low | ((high >> at & 1) as u8) << 4).wrapping_sub(16);
        bytes.extend_from_slice(scale);
        bytes.extend(low.iter().enumerate().map(|(i, byte)| value(byte & 0xf, i)));
        bytes.extend(low.iter().enumerate().map(|(i, byte)| value(byte >> 4, i + 16)));
    }
    RawTensor { dtype: GgmlDType::Q8_0, shape: raw.shape, bytes }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;

    use super::*;

    fn matrix(kind: GgmlDType) -> (QuantizedMatrix, Tensor) {
        let values: Vec<f32> = (0..5 * 256).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
        let tensor = Tensor::from_vec(values, (5, 256), &Device::Cpu).unwrap();
        let packed = QTensor::quantize(&tensor, kind).unwrap();
        let bytes = packed.data().unwrap().into_owned();
        let raw = RawTensor { dtype: kind, shape: vec![5, 256], bytes };
        let plain = packed.dequantize(&Device::Cpu).unwrap();
        (QuantizedMatrix::new(raw, &Device::Cpu).unwrap(), plain)
    }

    #[test]
    fn rows_are_looked_up_as_they_dequantise_and_five_bits_survive_in_eight() {
        for kind in [GgmlDType::Q5_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::F16] {
            let (matrix, plain) = matrix(kind);
            let ids = Tensor::new(&[4u32, 0, 4], &Device::Cpu).unwrap();
            let found = matrix.lookup(&ids).unwrap().to_vec2::<f32>().unwrap();
            let expected = plain.index_select(&ids, 0).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(found, expected, "{kind:?}");
        }
    }

    #[test]
    fn products_are_those_of_the_dequantised_matrix() {
        for kind in [GgmlDType::Q5_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K] {
            let (matrix, plain) = matrix(kind);
            // Whole numbers with a 127 in every block pass the rounding of activations unchanged.
            let value =
                |i: usize| if i.is_multiple_of(32) { 127.0 } else { (i * 29 % 255) as f32 - 127.0 };
            let x: Vec<f32> = (0..3 * 256).map(value).collect();
            let x = Tensor::from_vec(x, (3, 256), &Device::Cpu).unwrap();
            let first = matrix.first_rows(3).unwrap();
            let expected = x.matmul(&plain.t().unwrap()).unwrap();
            for (rows, matrix) in [(5, &matrix), (3, &first)] {
                let expected = expected.narrow(1, 0, rows).unwrap();
                let found = matrix.forward(&x).unwrap();
                assert_eq!(found.dims(), [3, rows]);
                let scale: f32 = expected.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
                let off = (found - expected).unwrap().abs().unwrap().max_all().unwrap();
                let off: f32 = off.to_scalar().unwrap();
                assert!(off < 2e-3 * scale, "{kind:?}: {off} apart of {scale}");
            }
        }
        assert!(matrix(GgmlDType::Q8_0).0.first_rows(6).is_err());
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_refused() {
        let raw = RawTensor { dtype: GgmlDType::Q8_0, shape: vec![2, 33], bytes: vec![0; 68] };
        let error = QuantizedMatrix::new(raw, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("33 values are no whole number of Q8_0 blocks"), "{error}");
    }
}
