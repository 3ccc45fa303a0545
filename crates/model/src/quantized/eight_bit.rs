//! Matrices of signed bytes with one f16 scale for every 32 of a row (GGML's Q8_0), multiplied with
//! activations that are rounded likewise. A row of the matrix is read once for several rows of
//! activations; candle's own product reads it, and converts its scales, once for each.

use half::f16;
use half::slice::HalfFloatSliceExt;
use pulp::NullaryFnOnce;
use pulp::x86::V3;
use rayon::prelude::*;

/// Values of one scale.
const BLOCK: usize = 32;
/// Bytes of a block in a file: its scale and its values.
const BLOCK_BYTES: usize = 2 + BLOCK;
/// Rows of activations that share one reading of the matrix.
const TILE: usize = 4;
/// Pieces of the work for each thread, so that none waits long for the last.
const PIECES: usize = 4;

/// `[rows, columns]`
pub(super) struct EightBit {
    simd: V3,
    blocks_per_row: usize,
    values: Vec<[i8; BLOCK]>,
    scales: Vec<f16>,
}

/// Rows of activations, rounded to 255 steps of a scale for every 32 values.
struct Rounded {
    values: Vec<[i16; BLOCK]>,
    scales: Vec<f32>,
}

impl EightBit {
    /// `None` where the processor lacks AVX2.
    ///
    /// `bytes` are whole rows of Q8_0 blocks as a file has them.
    pub(super) fn new(bytes: &[u8], columns: usize) -> Option<Self> {
        let simd = V3::try_new()?;
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        debug_assert!(rest.is_empty() && columns.is_multiple_of(BLOCK));
        let value =
            |block: &[u8; BLOCK_BYTES]| std::array::from_fn(|at| block[2 + at].cast_signed());
        let scale = |block: &[u8; BLOCK_BYTES]| f16::from_le_bytes([block[0], block[1]]);
        Some(Self {
            simd,
            blocks_per_row: columns / BLOCK,
            values: blocks.iter().map(value).collect(),
            scales: blocks.iter().map(scale).collect(),
        })
    }

    /// Of the first `rows`: `x` `[n, columns]` to `out` `[n, rows]`.
    pub(super) fn forward(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        let x = Rounded::new(x);
        let piece = rows.div_ceil(rayon::current_num_threads() * PIECES).max(1);
        // A piece is some of the matrix' rows: those columns of all rows of `out`.
        let mut pieces: Vec<Vec<&mut [f32]>> = Vec::new();
        pieces.resize_with(rows.div_ceil(piece), Vec::new);
        for row in out.chunks_mut(rows.max(1)) {
            for (columns, part) in pieces.iter_mut().zip(row.chunks_mut(piece)) {
                columns.push(part);
            }
        }
        pieces.par_iter_mut().enumerate().for_each(|(at, out)| {
            self.simd.vectorize(Piece { matrix: self, x: &x, first: at * piece, out });
        });
    }

    /// The row `id`, as it dequantises.
    pub(super) fn row(&self, id: usize) -> impl Iterator<Item = f32> {
        let blocks = id * self.blocks_per_row..(id + 1) * self.blocks_per_row;
        let blocks = self.values[blocks.clone()].iter().zip(&self.scales[blocks]);
        blocks.flat_map(|(values, scale)| {
            values.iter().map(move |value| f32::from(*value) * scale.to_f32())
        })
    }
}

impl Rounded {
    fn new(x: &[f32]) -> Self {
        let blocks = x.as_chunks::<BLOCK>().0;
        let (mut values, mut scales) = (Vec::new(), Vec::new());
        values.reserve_exact(blocks.len());
        scales.reserve_exact(blocks.len());
        for block in blocks {
            let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let steps = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            values.push(block.map(|x| (x * steps).round() as i16));
            // What is no number must not become one.
            let finite = block.iter().all(|x| x.is_finite());
            scales.push(if finite { largest / 127.0 } else { f32::NAN });
        }
        Self { values, scales }
    }
}

/// Rows of the matrix from `first` on, as many as `out` has columns, against all activations.
struct Piece<'a, 'out> {
    matrix: &'a EightBit,
    x: &'a Rounded,
    first: usize,
    out: &'a mut [&'out mut [f32]],
}

impl NullaryFnOnce for Piece<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { matrix, x, first, out } = self;
        let per_row = matrix.blocks_per_row;
        let mut scales = vec![0f32; per_row];
        for column in 0..out.first().map_or(0, |row| row.len()) {
            let start = (first + column) * per_row;
            let weights = &matrix.values[start..start + per_row];
            matrix.scales[start..start + per_row].convert_to_f32_slice(&mut scales);
            let tiles = x.values.chunks(TILE * per_row).zip(x.scales.chunks(TILE * per_row));
            for (out, (values, of)) in out.chunks_mut(TILE).zip(tiles) {
                let row = Row { simd: matrix.simd, weights, scales: &scales };
                match out.len() {
                    TILE => row.dots::<TILE>(values, of, column, out),
                    3 => row.dots::<3>(values, of, column, out),
                    2 => row.dots::<2>(values, of, column, out),
                    _ => row.dots::<1>(values, of, column, out),
                }
            }
        }
    }
}

/// One row of the matrix.
struct Row<'a> {
    simd: V3,
    weights: &'a [[i8; BLOCK]],
    scales: &'a [f32],
}

impl Row<'_> {
    /// Against `N` rows of activations, into column `column` of `out`.
    #[inline(always)]
    fn dots<const N: usize>(
        &self,
        values: &[[i16; BLOCK]],
        scales: &[f32],
        column: usize,
        out: &mut [&mut [f32]],
    ) {
        let (V3 { avx, avx2, fma, .. }, count) = (self.simd, self.weights.len());
        let values: [&[[i16; BLOCK]]; N] =
            std::array::from_fn(|row| &values[row * count..(row + 1) * count]);
        let scales: [&[f32]; N] =
            std::array::from_fn(|row| &scales[row * count..(row + 1) * count]);
        let mut sums = [avx._mm256_setzero_ps(); N];
        for (at, (weights, scale)) in self.weights.iter().zip(self.scales).enumerate() {
            let [low, high] = pulp::cast::<[i8; BLOCK], [_; 2]>(*weights);
            let (low, high) = (avx2._mm256_cvtepi8_epi16(low), avx2._mm256_cvtepi8_epi16(high));
            for row in 0..N {
                let [first, second] = pulp::cast::<[i16; BLOCK], [_; 2]>(values[row][at]);
                let products = avx2._mm256_add_epi32(
                    avx2._mm256_madd_epi16(low, first),
                    avx2._mm256_madd_epi16(high, second),
                );
                let scale = avx._mm256_set1_ps(scale * scales[row][at]);
                sums[row] = fma._mm256_fmadd_ps(avx._mm256_cvtepi32_ps(products), scale, sums[row]);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            out[column] = pulp::cast::<_, [f32; 8]>(sum).iter().sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 3 * BLOCK;

    fn noise(seed: usize) -> impl Fn(usize) -> f32 {
        move |at| ((at * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0
    }

    fn matrix(rows: usize) -> EightBit {
        let mut bytes = Vec::new();
        for block in 0..rows * COLUMNS / BLOCK {
            bytes.extend(f16::from_f32(0.01 + noise(1)(block).abs()).to_le_bytes());
            bytes.extend((0..BLOCK).map(|at| ((block * 31 + at * 57) % 256) as u8));
        }
        EightBit::new(&bytes, COLUMNS).expect("a processor with AVX2")
    }

    /// Row by row in f64, with activations rounded as arXiv 2208.07339 §2.1 (absmax) has it.
    fn expected(matrix: &EightBit, x: &[f32], rows: usize) -> Vec<f64> {
        let rounded = x.chunks(BLOCK).flat_map(|block| {
            let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let round = move |x: &f32| match largest > 0.0 {
                true => f64::from((x * (127.0 / largest)).round()) * f64::from(largest) / 127.0,
                false => 0.0,
            };
            block.iter().map(round)
        });
        let rounded: Vec<f64> = rounded.collect();
        let dot =
            |x: &[f64], row: usize| matrix.row(row).zip(x).map(|(w, x)| f64::from(w) * x).sum();
        rounded.chunks(COLUMNS).flat_map(|x| (0..rows).map(move |row| dot(x, row))).collect()
    }

    #[test]
    fn products_are_those_of_rounded_activations_for_any_number_of_rows() {
        let matrix = matrix(37);
        for (n, rows) in [(1, 37), (2, 36), (3, 1), (4, 37), (5, 3), (8, 37), (9, 20)] {
            let mut x: Vec<f32> = (0..n * COLUMNS).map(noise(n)).collect();
            x[..BLOCK].fill(0.0);
            let mut found = vec![f32::NAN; n * rows];
            matrix.forward(&x, rows, &mut found);
            let expected = expected(&matrix, &x, rows);
            let scale = expected.iter().fold(0.0, |scale: f64, e| scale.max(e.abs()));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let apart = (f64::from(*found) - expected).abs();
                assert!(apart < 1e-5 * scale, "{n} by {rows}, {at}: {found}, not {expected}");
            }
        }
    }
    #[test]
    fn what_is_no_number_reaches_its_own_row_and_no_other() {
        let matrix = matrix(3);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x: Vec<f32> = (0..2 * COLUMNS).map(noise(2)).collect();
            x[COLUMNS + 40] = broken;
            let mut found = vec![0.0; 2 * 3];
            matrix.forward(&x, 3, &mut found);
            assert!(found[..3].iter().all(|y| y.is_finite()), "{broken}: {found:?}");
            assert!(found[3..].iter().all(|y| y.is_nan()), "{broken}: {found:?}");
        }
    }
}
