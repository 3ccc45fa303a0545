//! A matrix in blocks of few bits: kept as the file has it, multiplied and looked up without being
//! unpacked. Which layers are made of such matrices is not known here.

#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(target_arch = "x86_64")]
mod packings;

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
    Packed(Box<dyn packed::PackedMatrix>),
    /// Other types, or another CPU: candle's products over the blocks as they lie, with activations of 8
    /// bits. Its `QMatMul` would keep a second, wider arrangement of most types beside them.
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
            Blocks::Packed(matrix) => self.on_cpu(x, |x, out| {
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
            Blocks::Packed(matrix) => {
                let ids = ids.to_vec1::<u32>()?;
                if let Some(id) = ids.iter().find(|id| **id as usize >= self.all_rows) {
                    bail!("row {id} is outside the {} rows", self.all_rows)
                }
                let mut out = Vec::with_capacity(ids.len() * self.columns);
                ids.iter().for_each(|id| matrix.unpack_row(*id as usize, &mut out));
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
        let (kind, bytes) = (raw.dtype, raw.bytes);
        #[cfg(target_arch = "x86_64")]
        if let Some(matrix) = packed::packed(kind, &bytes, columns) {
            return Self::Packed(matrix);
        }
        let (kind, bytes) = widened(kind, bytes);
        Self::Cpu(kind.from_data(bytes.into()))
    }
}

impl fmt::Debug for QuantizedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuantizedMatrix[{}, {}]", self.rows, self.columns)
    }
}

/// Five bits less 16 fit into eight, with the same scale: nothing is lost, and candle multiplies Q5_0 a
/// value at a time on every CPU.
fn widened(kind: GgmlDType, bytes: Vec<u8>) -> (GgmlDType, Vec<u8>) {
    const FROM: usize = 22;
    const TO: usize = 34;
    if kind != GgmlDType::Q5_0 {
        return (kind, bytes);
    }
    let mut wide = Vec::with_capacity(bytes.len() / FROM * TO);
    for block in bytes.as_chunks::<FROM>().0 {
        let (scale, values) = block.split_at(2);
        let (high, low) = values.split_at(4);
        let high = u32::from_le_bytes(high.try_into().expect("four bytes were split off"));
        let value = |low: u8, at: usize| (low | ((high >> at & 1) as u8) << 4).wrapping_sub(16);
        wide.extend_from_slice(scale);
        wide.extend(low.iter().enumerate().map(|(i, byte)| value(byte & 0xf, i)));
        wide.extend(low.iter().enumerate().map(|(i, byte)| value(byte >> 4, i + 16)));
    }
    (GgmlDType::Q8_0, wide)
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;

    use super::*;

    const KINDS: &[GgmlDType] = &[
        GgmlDType::Q4_0,
        GgmlDType::Q5_0,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];
    const ROWS: usize = 37;
    const COLUMNS: usize = 2 * 256;

    /// Whether products are ours: candle's round activations to 8 bits.
    fn multiplied_here() -> bool {
        #[cfg(target_arch = "x86_64")]
        return pulp::x86::V3::is_available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Of the largest product.
    fn tolerance() -> f64 {
        if multiplied_here() { 2e-5 } else { 1e-2 }
    }

    fn noise(seed: usize) -> impl Fn(usize) -> f32 {
        move |at| ((at * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0
    }

    fn matrix(kind: GgmlDType) -> (QuantizedMatrix, Tensor) {
        let shape = (ROWS, COLUMNS);
        let values: Vec<f32> = (0..ROWS * COLUMNS).map(noise(1)).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let packed = QTensor::quantize(&tensor, kind).unwrap();
        let bytes = packed.data().unwrap().into_owned();
        let raw = RawTensor { dtype: kind, shape: vec![ROWS, COLUMNS], bytes };
        let plain = packed.dequantize(&Device::Cpu).unwrap();
        (QuantizedMatrix::new(raw, &Device::Cpu).unwrap(), plain)
    }

    #[test]
    fn rows_are_looked_up_as_they_dequantise() {
        for kind in [KINDS, &[GgmlDType::F16]].concat() {
            let (matrix, plain) = matrix(kind);
            let ids = Tensor::new(&[4u32, 0, 4], &Device::Cpu).unwrap();
            let found = matrix.lookup(&ids).unwrap().to_vec2::<f32>().unwrap();
            let expected = plain.index_select(&ids, 0).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(found, expected, "{kind:?}");
        }
    }

    #[test]
    fn products_are_those_of_the_dequantised_matrix_for_any_number_of_rows() {
        for kind in KINDS {
            let (matrix, plain) = matrix(*kind);
            let plain = plain.to_dtype(DType::F64).unwrap().t().unwrap();
            for (n, rows) in [(1, ROWS), (2, ROWS - 1), (3, 1), (4, ROWS), (5, 3), (9, 20)] {
                let mut x: Vec<f32> = (0..n * COLUMNS).map(noise(n)).collect();
                x[..32].fill(0.0);
                let x = Tensor::from_vec(x, (n, COLUMNS), &Device::Cpu).unwrap();
                let found = matrix.first_rows(rows).unwrap().forward(&x).unwrap();
                assert_eq!(found.dims(), [n, rows]);
                let expected = x.to_dtype(DType::F64).unwrap().matmul(&plain).unwrap();
                let expected = expected.narrow(1, 0, rows).unwrap();
                let largest =
                    |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                let off = largest((found.to_dtype(DType::F64).unwrap() - &expected).unwrap());
                let scale = largest(expected);
                assert!(off < tolerance() * scale, "{kind:?}, {n}: {off} apart of {scale}");
            }
        }
        assert!(matrix(GgmlDType::Q8_0).0.first_rows(ROWS + 1).is_err());
    }

    /// As other CPUs keep it.
    #[test]
    fn five_bits_survive_in_eight() {
        let values: Vec<f32> = (0..ROWS * COLUMNS).map(noise(3)).collect();
        let tensor = Tensor::from_vec(values, (ROWS, COLUMNS), &Device::Cpu).unwrap();
        let packed = QTensor::quantize(&tensor, GgmlDType::Q5_0).unwrap();
        let (kind, bytes) = widened(GgmlDType::Q5_0, packed.data().unwrap().into_owned());
        assert_eq!(kind, GgmlDType::Q8_0);
        let all: Vec<u32> = (0..ROWS as u32).collect();
        let found = kind.from_data(bytes.into()).embedding(&all, ROWS, COLUMNS).unwrap();
        let expected = packed.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        assert_eq!(found.as_slice::<f32>().unwrap(), expected.to_vec1::<f32>().unwrap());
    }

    /// The farthest value from 0 in every place, and the largest activation: nothing overflows.
    #[test]
    fn the_largest_products_are_exact() {
        let block = [&[0u8; 192][..], &[0x80; 16], &half::f16::ONE.to_le_bytes()].concat();
        let raw = RawTensor { dtype: GgmlDType::Q6K, shape: vec![1, 256], bytes: block };
        let matrix = QuantizedMatrix::new(raw, &Device::Cpu).unwrap();
        for x in [1.0f32, -1.0, 3e4] {
            let found = matrix.forward(&Tensor::full(x, (1, 256), &Device::Cpu).unwrap()).unwrap();
            let found: f32 = found.flatten_all().unwrap().to_vec1().unwrap()[0];
            let expected = 4096.0 * 256.0 * x;
            assert!((found / expected - 1.0).abs() < 1e-6, "{found}, not {expected}");
        }
    }

    #[test]
    fn what_is_too_small_to_be_scaled_up_is_nothing() {
        for kind in KINDS {
            let x = Tensor::full(1e-36f32, (1, COLUMNS), &Device::Cpu).unwrap();
            let found = matrix(*kind).0.forward(&x).unwrap().to_vec2::<f32>().unwrap();
            assert!(found[0].iter().all(|y| y.abs() < 1e-30), "{kind:?}: {found:?}");
        }
    }

    /// candle's rounding of activations makes a number of it in some formats.
    #[test]
    fn what_is_no_number_reaches_its_own_row_and_no_other() {
        if !multiplied_here() {
            return;
        }
        for kind in KINDS {
            let (matrix, _) = matrix(*kind);
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x: Vec<f32> = (0..2 * COLUMNS).map(noise(2)).collect();
                x[COLUMNS + 40] = broken;
                let x = Tensor::from_vec(x, (2, COLUMNS), &Device::Cpu).unwrap();
                let found = matrix.forward(&x).unwrap().to_vec2::<f32>().unwrap();
                assert!(found[0].iter().all(|y| y.is_finite()), "{kind:?}, {broken}: {found:?}");
                assert!(found[1].iter().all(|y| y.is_nan()), "{kind:?}, {broken}: {found:?}");
            }
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_refused() {
        let raw = RawTensor { dtype: GgmlDType::Q8_0, shape: vec![2, 33], bytes: vec![0; 68] };
        let error = QuantizedMatrix::new(raw, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("33 values are no whole number of Q8_0 blocks"), "{error}");
    }
}
