//! The kernels for CUDA, run on the CPU by the calls that a device gets: a C++ compiler turns their
//! sources into a program that runs the threads of a block in turn, in two orders. That a device runs
//! them as well is for `tests/gpu` to show.
#![allow(clippy::unwrap_used, reason = "all of this is test code, its helpers too")]

mod attention;
mod emulator;
mod layers;
mod optimizer;
mod sampler;

/// Numbers between -1 and 1 that look random.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{i}: {found} is not {expected}");
    }
}
