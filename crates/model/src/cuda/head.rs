//! Log-probabilities from rows of logits, and the gradient towards those.

use candle_core::{DType, Result, Tensor, bail};
use device::{DRAW_BLOCK, DrawTokens, Elements, Numbers, Piece, ScoreSlopes, accumulate};

use super::{numbers, size, whole};

/// Log-probability `[n]` of each target under the softmax of `logits / temperature`, f32
/// `[n, ids]`; a target among `stops` counts all of them.
pub(crate) fn scores(
    logits: &Tensor,
    targets: &[u32],
    stops: &[u32],
    temperature: f64,
) -> Result<Tensor> {
    let cuda = logits.device().as_cuda_device()?;
    let (n, width) = logits.dims2()?;
    let mut table = Vec::with_capacity(4 * n);
    for (row, target) in targets.iter().enumerate() {
        table.extend([0, 0, size(row)?, *target]);
    }
    let table = device::upload(cuda, &table)?;
    let stops_at = (!stops.is_empty()).then(|| device::upload(cuda, stops)).transpose()?;
    let drawn = device::empty(cuda, DType::U32, 3 * n)?;
    let call = DrawTokens {
        drawn: whole(&drawn)?,
        logits: device::of_tensor(logits)?,
        draws: whole(&table)?,
        count: size(n)?,
        banned: None,
        stops: stops_at.as_ref().map(whole).transpose()?,
        stop_count: size(stops.len())?,
        width: size(width)?,
        vocab: size(width)?,
        temperature,
        threads: DRAW_BLOCK,
    };
    device::launch(cuda, &call.call())?;
    let words = cuda.clone_dtoh(drawn.as_cuda_slice::<u32>()?)?;
    // Logits that are no numbers have no log-probability: the loss says so.
    let value = |[_, logprob, fault]: &[u32; 3]| match fault {
        0 => f32::from_bits(*logprob),
        _ => f32::NAN,
    };
    let values: Vec<f32> = words.as_chunks::<3>().0.iter().map(value).collect();
    Tensor::from_vec(values, n, logits.device())
}

/// Turns f32 logits `[n, ids]`, which nothing else may hold, into the gradient towards them of the
/// sum of `slopes` times [`scores`].
pub(crate) fn slopes(
    logits: &Tensor,
    (targets, slopes): (&[u32], &[f64]),
    stops: &[u32],
    temperature: f64,
) -> Result<()> {
    let cuda = logits.device().as_cuda_device()?;
    let (n, width) = logits.dims2()?;
    if logits.dtype() != DType::F32 || !logits.is_contiguous() {
        bail!("slopes of scores need contiguous f32 logits");
    }
    let targets = device::upload(cuda, targets)?;
    let bits: Vec<u32> = slopes.iter().map(|slope| (*slope as f32).to_bits()).collect();
    let slopes = device::upload(cuda, &bits)?;
    let stops_at = (!stops.is_empty()).then(|| device::upload(cuda, stops)).transpose()?;
    let call = ScoreSlopes {
        logits: device::of_tensor(logits)?,
        targets: whole(&targets)?,
        slopes: whole(&slopes)?,
        stops: stops_at.as_ref().map(whole).transpose()?,
        stop_count: size(stops.len())?,
        rows: size(n)?,
        width: size(width)?,
        vocab: size(width)?,
        temperature,
        threads: DRAW_BLOCK,
    };
    device::launch(cuda, &call.call())
}

/// Adds `block` `[n,d]` to the rows of an f32 `sum` `[_,d]` from `first` on; nothing else may hold
/// `sum`.
pub(crate) fn add_to_rows(sum: &Tensor, first: usize, block: &Tensor) -> Result<()> {
    let (block, width) = (block.contiguous()?, sum.dim(1)?);
    if sum.dtype() != DType::F32 || first * width + block.elem_count() > sum.elem_count() {
        bail!("a block {:?} from row {first} on is outside {:?}", block.shape(), sum.shape());
    }
    let start = device::of_tensor(sum)?.plus(first * width * size_of::<f32>());
    let sum_at = Piece { start, count: block.elem_count() as u64 };
    let numbers: Numbers = numbers(block.dtype())?;
    let x = Elements { start: device::of_tensor(&block)?, numbers };
    device::launch(sum.device().as_cuda_device()?, &accumulate(sum_at, x))
}
