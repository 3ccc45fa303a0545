//! Matrices as a file packs them, multiplied with activations of 16 bits. A row of the matrix is
//! unpacked in registers, once for several rows of activations.
//!
//! GGML rounds activations to the 8 bits of its weights; the instruction that multiplies pairs of 16
//! bits takes no longer here, since the weights are widened for it anyway, and rounds 256 times finer.

use candle_core::quantized::GgmlDType;
use half::f16;
use pulp::NullaryFnOnce;
use pulp::x86::V3;
use rayon::prelude::*;

use super::packings::{GROUP, Packing, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};

/// Rows of activations that share one unpacking of the matrix.
const TILE: usize = 4;
/// Pieces of the work for each thread, so that none waits long for the last.
const PIECES: usize = 4;
/// Steps of an activation on either side of 0: 4 products with a value of at most 4,096 fit into 31 bits.
const STEPS: f32 = i16::MAX as f32;

/// `[rows, columns]`
pub(super) trait PackedMatrix: Send + Sync {
    /// Of the first `rows`: `x` `[n, columns]` to `out` `[n, rows]`.
    fn forward(&self, x: &[f32], rows: usize, out: &mut [f32]);

    /// The row `id`, as it dequantises, to the end of `out`.
    fn unpack_row(&self, id: usize, out: &mut Vec<f32>);
}

/// The matrix of `bytes`, whole rows of whole blocks; `None` where the processor lacks AVX2, or of a
/// format that is not known here.
pub(super) fn packed(
    kind: GgmlDType,
    bytes: &[u8],
    columns: usize,
) -> Option<Box<dyn PackedMatrix>> {
    let simd = V3::try_new()?;
    Some(match kind {
        GgmlDType::Q8_0 => Packed::<Q8_0>::boxed(simd, bytes, columns),
        GgmlDType::Q4_0 => Packed::<Q4_0>::boxed(simd, bytes, columns),
        GgmlDType::Q5_0 => Packed::<Q5_0>::boxed(simd, bytes, columns),
        GgmlDType::Q4K => Packed::<Q4K>::boxed(simd, bytes, columns),
        GgmlDType::Q5K => Packed::<Q5K>::boxed(simd, bytes, columns),
        GgmlDType::Q6K => Packed::<Q6K>::boxed(simd, bytes, columns),
        _ => return None,
    })
}

struct Packed<P: Packing> {
    simd: V3,
    groups_per_row: usize,
    blocks: Vec<P::Block>,
    /// Of the blocks that have one.
    scales: Vec<f16>,
}

/// Rows of activations, rounded to whole numbers of a scale for every group.
struct Rounded {
    values: Vec<[i16; GROUP]>,
    scales: Vec<f32>,
    /// Of the rounded activations, for the minima of the matrix.
    sums: Vec<f32>,
}

impl<P: Packing> Packed<P> {
    fn boxed(simd: V3, bytes: &[u8], columns: usize) -> Box<dyn PackedMatrix> {
        debug_assert!(columns.is_multiple_of(GROUP * P::GROUPS));
        let (blocks, scales) = P::split(bytes);
        Box::new(Self { simd, groups_per_row: columns / GROUP, blocks, scales })
    }

    /// The blocks of a row; its scales and minima are written.
    #[inline(always)]
    fn row(&self, id: usize, scales: &mut [f32], minima: &mut [f32]) -> &[P::Block] {
        let per_row = self.groups_per_row / P::GROUPS;
        let row = id * per_row..(id + 1) * per_row;
        // Formats whose blocks hold their own scales have none here.
        let of_blocks = self.scales.get(row.clone()).unwrap_or_default();
        let blocks = &self.blocks[row];
        P::scales(blocks, of_blocks, scales, minima);
        blocks
    }
}

impl<P: Packing> PackedMatrix for Packed<P> {
    fn forward(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        let x = self.simd.vectorize(Rounding { simd: self.simd, x });
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

    fn unpack_row(&self, id: usize, out: &mut Vec<f32>) {
        let mut scales = vec![0.0; self.groups_per_row];
        let mut minima = scales.clone();
        let blocks = self.row(id, &mut scales, &mut minima);
        let groups =
            blocks.iter().flat_map(|block| (0..P::GROUPS).map(move |group| (block, group)));
        for ((block, group), (scale, minimum)) in groups.zip(scales.into_iter().zip(minima)) {
            let values: [i16; GROUP] = pulp::cast(P::values(self.simd, block, group));
            out.extend(values.iter().map(|value| f32::from(*value) * scale - minimum));
        }
    }
}

struct Rounding<'a> {
    simd: V3,
    x: &'a [f32],
}

impl NullaryFnOnce for Rounding<'_> {
    type Output = Rounded;

    #[inline(always)]
    fn call(self) -> Rounded {
        let V3 { avx, .. } = self.simd;
        let groups = self.x.as_chunks::<GROUP>().0;
        let mut rounded = Rounded {
            values: Vec::with_capacity(groups.len()),
            scales: Vec::with_capacity(groups.len()),
            sums: Vec::with_capacity(groups.len()),
        };
        for group in groups {
            let largest = group.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            // What is no number must not become one.
            let finite = group.iter().all(|x| x.is_finite());
            let steps = if largest > 0.0 { STEPS / largest } else { 0.0 };
            let scale = if finite { largest / STEPS } else { f32::NAN };
            let mut values = [0i16; GROUP];
            let mut sum = 0i32;
            for (value, x) in values.as_chunks_mut::<8>().0.iter_mut().zip(group.as_chunks::<8>().0)
            {
                let whole = avx._mm256_cvtps_epi32(
                    avx._mm256_mul_ps(pulp::cast(*x), avx._mm256_set1_ps(steps)),
                );
                for (value, whole) in value.iter_mut().zip(pulp::cast::<_, [i32; 8]>(whole)) {
                    // i32::MIN, of a group that is no number or too small to be scaled up, to 0.
                    *value = whole as i16;
                    sum += i32::from(*value);
                }
            }
            rounded.sums.push(scale * sum as f32);
            rounded.values.push(values);
            rounded.scales.push(scale);
        }
        rounded
    }
}

/// Rows of the matrix from `first` on, as many as `out` has columns, against all activations.
struct Piece<'a, 'out, P: Packing> {
    matrix: &'a Packed<P>,
    x: &'a Rounded,
    first: usize,
    out: &'a mut [&'out mut [f32]],
}

impl<P: Packing> NullaryFnOnce for Piece<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { matrix, x, first, out } = self;
        let per_row = matrix.groups_per_row;
        let mut scales = vec![0f32; per_row];
        let mut minima = scales.clone();
        for column in 0..out.first().map_or(0, |row| row.len()) {
            let blocks = matrix.row(first + column, &mut scales, &mut minima);
            let row = Row::<P> { simd: matrix.simd, blocks, scales: &scales, minima: &minima };
            for (tile, out) in out.chunks_mut(TILE).enumerate() {
                let at = tile * TILE * per_row;
                match out.len() {
                    TILE => row.dots::<TILE>(x, at, column, out),
                    3 => row.dots::<3>(x, at, column, out),
                    2 => row.dots::<2>(x, at, column, out),
                    _ => row.dots::<1>(x, at, column, out),
                }
            }
        }
    }
}

/// One row of the matrix.
struct Row<'a, P: Packing> {
    simd: V3,
    blocks: &'a [P::Block],
    scales: &'a [f32],
    minima: &'a [f32],
}

impl<P: Packing> Row<'_, P> {
    /// Against `N` rows of activations from group `start` on, into column `column` of `out`.
    #[inline(always)]
    fn dots<const N: usize>(
        &self,
        x: &Rounded,
        start: usize,
        column: usize,
        out: &mut [&mut [f32]],
    ) {
        let (V3 { avx, avx2, fma, .. }, count) = (self.simd, self.scales.len());
        let of_row = |row: usize| start + row * count..start + (row + 1) * count;
        let values: [&[[i16; GROUP]]; N] = std::array::from_fn(|row| &x.values[of_row(row)]);
        let scales: [&[f32]; N] = std::array::from_fn(|row| &x.scales[of_row(row)]);
        let sums_of_x: [&[f32]; N] = std::array::from_fn(|row| &x.sums[of_row(row)]);
        let lanes = |of: &[f32], at: usize| pulp::cast(of.as_chunks::<8>().0[at / 8]);
        let mut sums = [avx._mm256_setzero_ps(); N];
        for (block, at) in self.blocks.iter().zip((0..count).step_by(P::GROUPS)) {
            if P::MINIMA {
                // A lane for each of the eight groups.
                let minima = lanes(self.minima, at);
                for row in 0..N {
                    let of_row = lanes(sums_of_x[row], at);
                    sums[row] = fma._mm256_fnmadd_ps(minima, of_row, sums[row]);
                }
            }
            for group in 0..P::GROUPS {
                let [low, high] = P::values(self.simd, block, group);
                let at = at + group;
                for row in 0..N {
                    let [first, second] = pulp::cast::<[i16; GROUP], [_; 2]>(values[row][at]);
                    let products = avx2._mm256_add_epi32(
                        avx2._mm256_madd_epi16(low, first),
                        avx2._mm256_madd_epi16(high, second),
                    );
                    let scale = avx._mm256_set1_ps(self.scales[at] * scales[row][at]);
                    sums[row] =
                        fma._mm256_fmadd_ps(avx._mm256_cvtepi32_ps(products), scale, sums[row]);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            let [low, high] = pulp::cast::<_, [[f32; 4]; 2]>(sum);
            let [a, b, c, d]: [f32; 4] = std::array::from_fn(|lane| low[lane] + high[lane]);
            out[column] = (a + c) + (b + d);
        }
    }
}
