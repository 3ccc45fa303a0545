//! The table of rotary angles (Su et al. 2021, eq. 15), computed in f64. Applying it belongs to the
//! attention operations.

use candle_core::{DType, Device, Result, Tensor};

use crate::ModelConfig;

/// `[positions, hd]`: the cosines of a position, then its sines.
pub(crate) fn angles(
    config: &ModelConfig,
    positions: usize,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let half = config.head_dim / 2;
    let frequency = |i: usize| config.rope_theta.powf(-(i as f64) / half as f64);
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let mut table = Vec::with_capacity(positions * config.head_dim);
    for position in 0..positions {
        table.extend(frequencies.iter().map(|f| (position as f64 * f).cos()));
        table.extend(frequencies.iter().map(|f| (position as f64 * f).sin()));
    }
    Tensor::from_vec(table, (positions, config.head_dim), &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(device)
}
