//! How GGML packs 32 values of a row, and how they are unpacked: into whole numbers of 16 bits in
//! registers, a scale for all of them and, where a format has one, what is taken off each. Layouts are
//! those of ggml-common.h.

use core::arch::x86_64::__m256i;

use half::f16;
use pulp::x86::V3;

/// Values that meet one scale of activations.
pub(super) const GROUP: usize = 32;

/// The smallest f16 above 0, 2⁻²⁴, of which those below 2⁻¹⁴ are multiples.
const SMALLEST_HALF: f32 = 1.0 / 16_777_216.0;

/// One format: value = scale · whole number − minimum.
pub(super) trait Packing: Send + Sync + 'static {
    /// As it lies in a file, without a scale that is for all of it.
    type Block: Send + Sync;
    /// Groups in a block.
    const GROUPS: usize;
    /// Whether anything is taken off; then a block has eight groups.
    const MINIMA: bool;

    /// The blocks of a file; and their scales, where one is for a whole block, so that those of a row
    /// lie together.
    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>);

    /// Of every group of a row; `minima` is left alone where there are none.
    #[inline(always)]
    fn scales(_row: &[Self::Block], of_blocks: &[f16], scales: &mut [f32], _minima: &mut [f32]) {
        scales.iter_mut().zip(of_blocks).for_each(|(scale, half)| *scale = float(*half));
    }

    /// The whole numbers of a group, 16 in each, at most 4,096 from 0.
    fn values(simd: V3, block: &Self::Block, group: usize) -> [__m256i; 2];
}

pub(super) struct Q8_0;
pub(super) struct Q5_0;
pub(super) struct Q4_0;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

impl Packing for Q8_0 {
    /// 32 signed bytes.
    type Block = [u8; 32];
    const GROUPS: usize = 1;
    const MINIMA: bool = false;

    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>) {
        scale_first(bytes)
    }

    #[inline(always)]
    fn values(simd: V3, block: &Self::Block, _group: usize) -> [__m256i; 2] {
        let halves: [[u8; 16]; 2] = pulp::cast(*block);
        halves.map(|half| simd.avx2._mm256_cvtepi8_epi16(pulp::cast(half)))
    }
}

impl Packing for Q5_0 {
    /// The fifth bits of 32 values, their low four: the first 16, then the last in high nibbles.
    type Block = [u8; 20];
    const GROUPS: usize = 1;
    const MINIMA: bool = false;

    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>) {
        scale_first(bytes)
    }

    #[inline(always)]
    fn values(simd: V3, block: &Self::Block, _group: usize) -> [__m256i; 2] {
        const BITS: [u16; 16] = {
            let mut bits = [0; 16];
            let mut at = 0;
            while at < 16 {
                bits[at] = 1 << at;
                at += 1;
            }
            bits
        };
        let V3 { avx, avx2, .. } = simd;
        let low = halves(simd, part(block, 4));
        let bits = pulp::cast(BITS);
        std::array::from_fn(|half| {
            let fifth = avx._mm256_set1_epi16(i16::from_le_bytes(part(block, 2 * half)));
            let set = avx2._mm256_cmpeq_epi16(avx2._mm256_and_si256(fifth, bits), bits);
            // 16 is taken off each, and the fifth bit adds 16.
            let off = avx2._mm256_andnot_si256(set, avx._mm256_set1_epi16(16));
            avx2._mm256_sub_epi16(low[half], off)
        })
    }
}

impl Packing for Q4_0 {
    /// 32 values of four bits: the first 16, then the last in high nibbles.
    type Block = [u8; 16];
    const GROUPS: usize = 1;
    const MINIMA: bool = false;

    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>) {
        scale_first(bytes)
    }

    #[inline(always)]
    fn values(simd: V3, block: &Self::Block, _group: usize) -> [__m256i; 2] {
        let V3 { avx, avx2, .. } = simd;
        let off = avx._mm256_set1_epi16(8);
        halves(simd, *block).map(|half| avx2._mm256_sub_epi16(half, off))
    }
}

impl Packing for Q4K {
    /// Two scales of scales, twelve bytes of scales, 256 values of four bits.
    type Block = [u8; 144];
    const GROUPS: usize = 8;
    const MINIMA: bool = true;

    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>) {
        (bytes.as_chunks().0.to_vec(), Vec::new())
    }

    #[inline(always)]
    fn scales(row: &[Self::Block], _: &[f16], scales: &mut [f32], minima: &mut [f32]) {
        six_bit_scales(row, scales, minima);
    }

    #[inline(always)]
    fn values(simd: V3, block: &Self::Block, group: usize) -> [__m256i; 2] {
        widen(simd, nibbles(simd, part(block, 16 + GROUP * (group / 2)), group % 2))
    }
}

impl Packing for Q5K {
    /// As Q4_K, with the fifth bits of value i of every group in byte i of 32 before the low four.
    type Block = [u8; 176];
    const GROUPS: usize = 8;
    const MINIMA: bool = true;

    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>) {
        (bytes.as_chunks().0.to_vec(), Vec::new())
    }

    #[inline(always)]
    fn scales(row: &[Self::Block], _: &[f16], scales: &mut [f32], minima: &mut [f32]) {
        six_bit_scales(row, scales, minima);
    }

    #[inline(always)]
    fn values(simd: V3, block: &Self::Block, group: usize) -> [__m256i; 2] {
        let low = nibbles(simd, part(block, 48 + GROUP * (group / 2)), group % 2);
        let fifth = upper_bits(simd, part(block, 16), group, 0x1);
        widen(simd, simd.avx2._mm256_or_si256(low, fifth))
    }
}

impl Packing for Q6K {
    /// Low four bits of 256 values, their high two, 16 signed scales of 16 values each, a scale of scales.
    type Block = [u8; 210];
    const GROUPS: usize = 8;
    const MINIMA: bool = false;

    fn split(bytes: &[u8]) -> (Vec<Self::Block>, Vec<f16>) {
        (bytes.as_chunks().0.to_vec(), Vec::new())
    }

    #[inline(always)]
    fn scales(row: &[Self::Block], _: &[f16], scales: &mut [f32], _: &mut [f32]) {
        for (block, scales) in row.iter().zip(scales.chunks_mut(Self::GROUPS)) {
            scales.fill(float(f16::from_le_bytes(part(block, 208))));
        }
    }

    /// Times their own scale.
    #[inline(always)]
    fn values(simd: V3, block: &Self::Block, group: usize) -> [__m256i; 2] {
        let V3 { avx, avx2, .. } = simd;
        // 128 values have their low bits in 64 bytes and their high ones in 32.
        let (side, quarter) = (group / 4, group % 4);
        let low = nibbles(simd, part(block, 64 * side + GROUP * (quarter % 2)), quarter / 2);
        let high = upper_bits(simd, part(block, 128 + GROUP * side), 2 * quarter, 0x3);
        let halves = widen(simd, avx2._mm256_or_si256(low, high));
        std::array::from_fn(|at| {
            let scale = i16::from(block[192 + 2 * group + at].cast_signed());
            let value = avx2._mm256_sub_epi16(halves[at], avx._mm256_set1_epi16(32));
            avx2._mm256_mullo_epi16(value, avx._mm256_set1_epi16(scale))
        })
    }
}

/// `N` bytes of a block from `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block[at..at + N].try_into().expect("a part has its length")
}

/// Blocks of `N` bytes and the scales before each.
fn scale_first<const N: usize>(bytes: &[u8]) -> (Vec<[u8; N]>, Vec<f16>) {
    let blocks = bytes.chunks_exact(2 + N);
    blocks.map(|block| (part(block, 2), f16::from_le_bytes(part(block, 0)))).unzip()
}

/// As `f16::to_f32`, in a form that is compiled to vector instructions: a call for each scale takes a
/// tenth of a product's time.
#[inline(always)]
fn float(half: f16) -> f32 {
    let bits = u32::from(half.to_bits());
    let magnitude = bits & 0x7fff;
    // Bits of the fraction that f32 has more, and the difference of the exponents' biases.
    let (shift, bias) = (13, 112 << 23);
    let normal = (magnitude << shift) + bias;
    let found = match magnitude {
        ..0x400 => (magnitude as f32 * SMALLEST_HALF).to_bits(),
        0x7c00.. => normal + bias,
        _ => normal,
    };
    f32::from_bits(found | (bits & 0x8000) << 16)
}

/// Q4_K's and Q5_K's: scales and minima of six bits, of eight groups in twelve bytes.
#[inline(always)]
fn six_bit_scales<const N: usize>(row: &[[u8; N]], scales: &mut [f32], minima: &mut [f32]) {
    let (scales, minima) = (scales.as_chunks_mut::<8>().0, minima.as_chunks_mut::<8>().0);
    for ((block, scales), minima) in row.iter().zip(scales).zip(minima) {
        let of_scales = float(f16::from_le_bytes(part(block, 0)));
        let of_minima = float(f16::from_le_bytes(part(block, 2)));
        let packed: [u8; 12] = part(block, 4);
        for group in 0..4 {
            let (low, high, last) = (packed[group], packed[group + 4], packed[group + 8]);
            let scale = [low & 0x3f, last & 0xf | low >> 6 << 4];
            let minimum = [high & 0x3f, last >> 4 | high >> 6 << 4];
            for at in 0..2 {
                scales[group + 4 * at] = of_scales * f32::from(scale[at]);
                minima[group + 4 * at] = of_minima * f32::from(minimum[at]);
            }
        }
    }
}

/// The low nibbles of 16 bytes, then their high ones, in 16 bits each.
#[inline(always)]
fn halves(simd: V3, bytes: [u8; 16]) -> [__m256i; 2] {
    let V3 { avx, avx2, .. } = simd;
    let both = avx2._mm256_cvtepu8_epi16(pulp::cast(bytes));
    let low = avx2._mm256_and_si256(both, avx._mm256_set1_epi16(0xf));
    [low, avx2._mm256_srli_epi16::<4>(both)]
}

/// The low (0) or high (1) nibbles of 32 bytes.
#[inline(always)]
fn nibbles(simd: V3, bytes: [u8; GROUP], which: usize) -> __m256i {
    masked(simd, bytes, 4 * which, 0xf)
}

/// The bits `mask` of each of 32 bytes after `by`, above a nibble.
#[inline(always)]
fn upper_bits(simd: V3, bytes: [u8; GROUP], by: usize, mask: u8) -> __m256i {
    simd.avx2._mm256_slli_epi16::<4>(masked(simd, bytes, by, mask))
}

#[inline(always)]
fn masked(simd: V3, bytes: [u8; GROUP], by: usize, mask: u8) -> __m256i {
    let V3 { sse2, avx, avx2, .. } = simd;
    let shifted = avx2._mm256_srl_epi16(pulp::cast(bytes), sse2._mm_cvtsi32_si128(by as i32));
    avx2._mm256_and_si256(shifted, avx._mm256_set1_epi8(mask.cast_signed()))
}

/// Bytes, none negative, to 16 bits.
#[inline(always)]
fn widen(simd: V3, bytes: __m256i) -> [__m256i; 2] {
    pulp::cast::<_, [[u8; 16]; 2]>(bytes)
        .map(|half| simd.avx2._mm256_cvtepu8_epi16(pulp::cast(half)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_as_the_library_does() {
        for half in (0..=u16::MAX).map(f16::from_bits) {
            let (found, expected) = (float(half), half.to_f32());
            let equal =
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(equal, "{:#x}: {found}, not {expected}", half.to_bits());
        }
    }
}
