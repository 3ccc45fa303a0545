//! Loops over slices that compilers vectorise: eight independent lanes, no calls inside. What they
//! add up to is decided by the operations that use them.

use candle_core::WithDType;

/// Two vector registers of f32 on every x86-64, one with AVX.
const LANES: usize = 8;

/// Element types that the kernels compute in.
pub(crate) trait Real: WithDType {
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
}

impl Real for f64 {
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
}

impl Real for f32 {
    /// Within 2 units in the last place on [-87, 88], clamped outside: 2^n times the polynomial
    /// for e^r with |r| <= ln 2 / 2 from Cephes `expf`, without a branch or a call.
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding 1.5 · 2^23 leaves the nearest integer in the low bits of the mantissa.
        const ROUND: f32 = 12_582_912.0;
        let x = if self < -87.0 { -87.0 } else { self };
        let x = if x > 88.0 { 88.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let mut p = 1.987_569_1e-4;
        p = p * r + 1.398_199_9e-3;
        p = p * r + 8.333_452e-3;
        p = p * r + 4.166_579_6e-2;
        p = p * r + 1.666_666_5e-1;
        p = p * r + 0.5;
        let e = p * r * r + r + 1.0;
        e * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

#[inline(always)]
pub(crate) fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    let (a8, a_rest) = a.as_chunks::<LANES>();
    let (b8, b_rest) = b.as_chunks::<LANES>();
    let mut sum = [F::zero(); LANES];
    for (x, y) in a8.iter().zip(b8) {
        for lane in 0..LANES {
            sum[lane] += x[lane] * y[lane];
        }
    }
    let mut total = across(sum);
    for (x, y) in a_rest.iter().zip(b_rest) {
        total += *x * *y;
    }
    total
}

#[inline(always)]
fn sum<F: Real>(a: &[F]) -> F {
    let (a8, a_rest) = a.as_chunks::<LANES>();
    let mut sum = [F::zero(); LANES];
    for x in a8 {
        for lane in 0..LANES {
            sum[lane] += x[lane];
        }
    }
    let mut total = across(sum);
    for x in a_rest {
        total += *x;
    }
    total
}

/// Σ exp(scale · (x − max)), in f64 across stretches that are short enough for f32.
#[inline(always)]
pub(crate) fn sum_exp<F: Real>(x: &[F], scale: F, max: F) -> f64 {
    const STRETCH: usize = 512;
    let mut total = 0.0;
    for stretch in x.chunks(STRETCH) {
        let (x8, rest) = stretch.as_chunks::<LANES>();
        let mut sum = [F::zero(); LANES];
        for x in x8 {
            for lane in 0..LANES {
                sum[lane] += ((x[lane] - max) * scale).exp();
            }
        }
        total += across(sum).to_f64();
        for x in rest {
            total += ((*x - max) * scale).exp().to_f64();
        }
    }
    total
}

#[inline(always)]
pub(crate) fn largest<F: Real>(x: &[F]) -> F {
    let (x8, rest) = x.as_chunks::<LANES>();
    let mut most = [F::from_f64(f64::NEG_INFINITY); LANES];
    for x in x8 {
        for lane in 0..LANES {
            most[lane] = if x[lane] > most[lane] { x[lane] } else { most[lane] };
        }
    }
    let more = |most: F, x: &F| if *x > most { *x } else { most };
    rest.iter().chain(&most).fold(F::from_f64(f64::NEG_INFINITY), more)
}

#[inline(always)]
fn across<F: Real>(x: [F; LANES]) -> F {
    ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}

/// `to += by · x`
#[inline(always)]
pub(crate) fn add_scaled<F: Real>(to: &mut [F], by: F, x: &[F]) {
    let (to8, to_rest) = to.as_chunks_mut::<LANES>();
    let (x8, x_rest) = x.as_chunks::<LANES>();
    for (t, x) in to8.iter_mut().zip(x8) {
        for lane in 0..LANES {
            t[lane] += by * x[lane];
        }
    }
    for (t, x) in to_rest.iter_mut().zip(x_rest) {
        *t += by * *x;
    }
}

/// Turns the pairs (i, i + dim/2) of one head by its position's angles; `angles` holds the cosines,
/// then the sines. Negative `direction` turns back.
#[inline(always)]
pub(crate) fn rotate<F: Real>(from: &[F], angles: &[F], direction: F, to: &mut [F]) {
    let half = from.len() / 2;
    let (cos, sin) = angles.split_at(half);
    let (low, high) = from.split_at(half);
    let (to_low, to_high) = to.split_at_mut(half);
    for i in 0..half {
        let s = direction * sin[i];
        to_low[i] = low[i] * cos[i] - high[i] * s;
        to_high[i] = high[i] * cos[i] + low[i] * s;
    }
}

/// Softmax of the scores of `query` with each of the keys, left in `weights`.
#[inline(always)]
pub(crate) fn attention_weights<F: Real>(query: &[F], keys: &[F], weights: &mut [F]) {
    let mut max = F::from_f64(f64::NEG_INFINITY);
    for (weight, key) in weights.iter_mut().zip(keys.chunks_exact(query.len())) {
        *weight = dot(query, key);
        max = if *weight > max { *weight } else { max };
    }
    for weight in weights.iter_mut() {
        *weight = (*weight - max).exp();
    }
    let scale = F::one() / sum(weights);
    for weight in weights.iter_mut() {
        *weight *= scale;
    }
}

/// One query of one head over contiguous keys and values `[len, dim]`; `query` is scaled already.
#[inline(always)]
pub(crate) fn attend<F: Real>(
    query: &[F],
    keys: &[F],
    values: &[F],
    weights: &mut [F],
    out: &mut [F],
) {
    attention_weights(query, keys, weights);
    out.fill(F::zero());
    for (weight, value) in weights.iter().zip(values.chunks_exact(out.len())) {
        add_scaled(out, *weight, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_exponential_is_within_two_units() {
        for i in -870..=880 {
            let x = i as f32 * 0.1 + 0.013;
            let x = x.clamp(-87.0, 88.0);
            let exact = f64::from(x).exp();
            let relative = (f64::from(Real::exp(x)) / exact - 1.0).abs();
            assert!(relative < 2.5e-7, "exp({x}) is off by {relative:e}");
        }
        assert_eq!(Real::exp(0.0f32), 1.0);
        assert!(Real::exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn kernels_match_their_definitions_on_odd_lengths() {
        let a: Vec<f64> = (0..27).map(|i| f64::from(i) * 0.5 - 3.0).collect();
        let b: Vec<f64> = (0..27).map(|i| 1.0 / f64::from(i + 1)).collect();
        let plain: f64 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
        assert!((dot(&a, &b) - plain).abs() < 1e-12);
        let mut c = b.clone();
        add_scaled(&mut c, 2.0, &a);
        assert_eq!(c[26], b[26] + 2.0 * a[26]);
        let angles = [0.6, 0.0, 0.8, 1.0];
        let (mut turned, mut back) = ([0f64; 4], [0f64; 4]);
        rotate(&[1.0, 2.0, 3.0, 4.0], &angles, 1.0, &mut turned);
        assert!((turned[0] - (0.6 - 2.4)).abs() < 1e-15 && (turned[3] - 2.0).abs() < 1e-15);
        rotate(&turned, &angles, -1.0, &mut back);
        assert!((back[2] - 3.0).abs() < 1e-15 && (back[1] - 2.0).abs() < 1e-15);
    }
}
