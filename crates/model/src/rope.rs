//! The table of rotary angles (Su et al. 2021, eq. 15), stretched or not, computed in f64. Applying it belongs to the
//! attention operations.

use candle_core::{DType, Device, Result, Tensor};

use crate::{Rope, RopeScaling};

/// `[positions, hd]`: the cosines of a position, then its sines.
pub(crate) fn angles(
    rope: &Rope,
    (positions, head_dim): (usize, usize),
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let half = head_dim / 2;
    let frequency = |i: usize| {
        let plain = rope.theta.powf(-(i as f64) / half as f64);
        rope.scaling.map_or(plain, |scaling| scaled(plain, scaling))
    };
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        table.extend(frequencies.iter().map(|f| (position as f64 * f).cos()));
        table.extend(frequencies.iter().map(|f| (position as f64 * f).sin()));
    }
    // Half types would turn far positions by the wrong angle; no kernel reads angles in them.
    let dtype = if dtype.size_in_bytes() < 4 { DType::F32 } else { dtype };
    Tensor::from_vec(table, (positions, head_dim), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// Llama 3.1's rule as in its reference code (`apply_scaling`): a frequency that turns fewer than
/// `low` times over the original context is divided by the factor, one that turns more than `high`
/// times is kept, and between them the share kept grows linearly with the turns.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } => {
            let turns = original * frequency / std::f64::consts::TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / factor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_three_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let of = |turns: f64| {
            let frequency = turns * std::f64::consts::TAU / 8192.0;
            scaled(frequency, scaling) / frequency
        };
        assert_eq!((of(4.1), of(100.0)), (1.0, 1.0));
        assert_eq!((of(0.99), of(0.01)), (1.0 / 32.0, 1.0 / 32.0));
        // Half way between 1 and 4 turns.
        assert!((of(2.5) - (0.5 + 0.5 / 32.0)).abs() < 1e-12);
        assert_eq!(scaled(0.5, RopeScaling::Linear { factor: 8.0 }), 0.0625);
    }

    #[test]
    fn the_table_holds_cosines_then_sines() {
        let rope = Rope { theta: 100.0, scaling: None };
        let table = angles(&rope, (3, 4), DType::F64, &Device::Cpu).unwrap();
        let row = table.to_vec2::<f64>().unwrap().remove(2);
        let expected = [2f64.cos(), 0.2f64.cos(), 2f64.sin(), 0.2f64.sin()];
        row.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-15));
    }
}
