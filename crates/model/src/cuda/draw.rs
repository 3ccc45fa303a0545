//! Drawing on the device: of a row of logits only its token and log-probability come to the host.

use std::collections::BTreeMap;

use candle_core::{CudaDevice, CudaStorage, Result, Tensor};
use device::{DRAW_BLOCK, DrawTokens, Pointer};

use super::{size, whole};
use crate::draw::{Draw, Pick};
use crate::sampler::{SampleError, Sampled, SamplerSettings};

const NO_TARGET: u32 = u32::MAX;

/// See `draw::draw_tokens`; all picks keep every token (top-p 1), and are checked. `logits` is f32
/// `[n,V]`, contiguous.
pub(crate) fn draw(
    logits: &Tensor,
    draws: &[Draw<'_>],
) -> Result<Vec<std::result::Result<Sampled, SampleError>>> {
    let device = logits.device().as_cuda_device()?;
    let (_, width) = logits.dims2()?;
    let mut outcomes: BTreeMap<usize, _> = BTreeMap::new();
    for (settings, members) in by_settings(draws) {
        let words = run(device, device::of_tensor(logits)?, width, (settings, draws, &members))?;
        for (index, [token, logprob, fault]) in members.into_iter().zip(words) {
            let value = || logit(logits, draws[index].row, token as usize);
            outcomes.insert(
                index,
                match fault {
                    0 => {
                        let token = match draws[index].pick {
                            Pick::Draw(_) => token,
                            Pick::Score(target) => target,
                        };
                        Ok(Sampled { token, logprob: f32::from_bits(logprob) })
                    }
                    1 => Err(SampleError::Logit { token: token as usize, value: value()? }),
                    _ => Err(SampleError::Nothing(width)),
                },
            );
        }
    }
    Ok(outcomes.into_values().collect())
}

/// Draws of one distribution go in one launch. There are few: most often a step has one.
fn by_settings<'a>(draws: &[Draw<'a>]) -> Vec<(&'a SamplerSettings, Vec<usize>)> {
    let mut groups: Vec<(&SamplerSettings, Vec<usize>)> = Vec::new();
    for (index, draw) in draws.iter().enumerate() {
        match groups.iter_mut().find(|(settings, _)| *settings == draw.settings) {
            Some((_, members)) => members.push(index),
            None => groups.push((draw.settings, vec![index])),
        }
    }
    groups
}

/// Token, bits of the log-probability, fault of each.
fn run(
    device: &CudaDevice,
    logits: Pointer,
    width: usize,
    (settings, draws, members): (&SamplerSettings, &[Draw<'_>], &[usize]),
) -> Result<Vec<[u32; 3]>> {
    let mut table: Vec<u32> = Vec::with_capacity(4 * members.len());
    for index in members {
        let (u, target) = match draws[*index].pick {
            Pick::Draw(u) => (u.to_bits(), NO_TARGET),
            Pick::Score(target) => (0, target),
        };
        table.extend([u as u32, (u >> 32) as u32, size(draws[*index].row)?, target]);
    }
    let optional = |values: Vec<u32>| -> Result<Option<CudaStorage>> {
        (!values.is_empty()).then(|| device::upload(device, &values)).transpose()
    };
    let (banned, stops) = (optional(bits(settings, width))?, optional(ends(settings))?);
    let drawn = device::empty(device, candle_core::DType::U32, 3 * members.len())?;
    let table = device::upload(device, &table)?;
    let call = DrawTokens {
        drawn: whole(&drawn)?,
        logits,
        draws: whole(&table)?,
        count: size(members.len())?,
        banned: banned.as_ref().map(whole).transpose()?,
        stops: stops.as_ref().map(whole).transpose()?,
        stop_count: size(ends(settings).len())?,
        width: size(width)?,
        vocab: size(width)?,
        temperature: settings.temperature,
        threads: DRAW_BLOCK,
    };
    device::launch(device, &call.call())?;
    let words = device.clone_dtoh(drawn.as_cuda_slice::<u32>()?)?;
    // The tables above must outlive the launch, not the copy, which waits for it.
    Ok(words.as_chunks::<3>().0.to_vec())
}

fn bits(settings: &SamplerSettings, width: usize) -> Vec<u32> {
    if settings.banned.is_empty() {
        return Vec::new();
    }
    let mut bits = vec![0u32; width.div_ceil(32)];
    settings.banned.iter().for_each(|id| bits[*id as usize / 32] |= 1 << (id % 32));
    bits
}

/// Each once: a probability that is listed twice is not counted twice.
fn ends(settings: &SamplerSettings) -> Vec<u32> {
    let mut ends: Vec<u32> = Vec::with_capacity(settings.stops.len());
    for id in &settings.stops {
        if !ends.contains(id) {
            ends.push(*id);
        }
    }
    ends
}

fn logit(logits: &Tensor, row: usize, token: usize) -> Result<f32> {
    logits.get(row)?.get(token)?.to_scalar()
}
