//! Drawing or scoring tokens from the rows of a forward, on the device that has them. The law is the
//! sampler's; on another device than the CPU whole rows stay there, but where top-p cuts a
//! distribution: such a row goes to the host, which sorts it.

use candle_core::{DType, Tensor};

use crate::ModelError;
use crate::ops::with_elements;
use crate::sampler::{SampleError, Sampled, SamplerSettings, logprob_of, sample};

/// One token wanted of a row of logits.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    pub row: usize,
    pub settings: &'a SamplerSettings,
    pub pick: Pick,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pick {
    /// By this uniform number in [0, 1), as [`sample`] does.
    Draw(f64),
    /// The log-probability of this token, as [`logprob_of`] does.
    Score(u32),
}

/// What came of each draw, in their order. `logits` is `[n,V]`.
///
/// # Errors
/// A row that is not there, a failing device. What is wrong with one draw is its own outcome.
pub fn draw_tokens(
    logits: &Tensor,
    draws: &[Draw<'_>],
) -> Result<Vec<Result<Sampled, SampleError>>, ModelError> {
    let rows = logits.dim(0)?;
    if let Some(draw) = draws.iter().find(|draw| draw.row >= rows) {
        let row = draw.row;
        return Err(ModelError::Input(format!("row {row} is outside the {rows} rows of logits")));
    }
    if draws.is_empty() {
        return Ok(Vec::new());
    }
    let logits = logits.to_dtype(DType::F32)?;
    if logits.device().is_cpu() {
        let vocab = logits.dim(1)?;
        return Ok(with_elements::<f32, _, 1>([&logits], |[all]| {
            let row = |draw: &Draw<'_>| &all[draw.row * vocab..(draw.row + 1) * vocab];
            Ok(draws.iter().map(|draw| on_host(row(draw), draw)).collect())
        })?);
    }
    on_device(&logits.contiguous()?, draws)
}

fn on_host(row: &[f32], draw: &Draw<'_>) -> Result<Sampled, SampleError> {
    match draw.pick {
        Pick::Draw(u) => sample(row, draw.settings, u),
        Pick::Score(token) => {
            let logprob = logprob_of(row, draw.settings, token)?;
            Ok(Sampled { token, logprob })
        }
    }
}

/// A build without CUDA has no other device.
#[cfg(not(feature = "cuda"))]
fn on_device(
    logits: &Tensor,
    _draws: &[Draw<'_>],
) -> Result<Vec<Result<Sampled, SampleError>>, ModelError> {
    Err(ModelError::Input(format!("tokens are not drawn on {:?}", logits.device())))
}

#[cfg(feature = "cuda")]
fn on_device(
    logits: &Tensor,
    draws: &[Draw<'_>],
) -> Result<Vec<Result<Sampled, SampleError>>, ModelError> {
    let vocab = logits.dim(1)?;
    let mut outcomes = Vec::with_capacity(draws.len());
    let (mut left, mut places) = (Vec::new(), Vec::new());
    for (place, draw) in draws.iter().enumerate() {
        outcomes.push(match check(draw, vocab) {
            Ok(()) if draw.settings.top_p < 1.0 => {
                // Of a part of a tensor all of it would come to the host.
                on_host(&logits.get(draw.row)?.force_contiguous()?.to_vec1::<f32>()?, draw)
            }
            Ok(()) => {
                left.push(*draw);
                places.push(place);
                Err(SampleError::Nothing(vocab)) // until it is drawn, below
            }
            Err(error) => Err(error),
        });
    }
    for (place, outcome) in places.into_iter().zip(crate::cuda::draw(logits, &left)?) {
        outcomes[place] = outcome;
    }
    Ok(outcomes)
}

#[cfg(feature = "cuda")]
fn check(draw: &Draw<'_>, vocab: usize) -> Result<(), SampleError> {
    crate::sampler::check_settings(draw.settings, vocab)?;
    match draw.pick {
        Pick::Draw(u) => crate::sampler::check_uniform(u),
        Pick::Score(id) if id as usize >= vocab => {
            Err(SampleError::Token { what: "token", id, vocab })
        }
        Pick::Score(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn each_draw_reads_its_own_row_under_its_own_settings() {
        let logits =
            Tensor::new(&[[0.0f32, 9.0, 0.0], [9.0, 0.0, f32::NAN]], &Device::Cpu).unwrap();
        let sharp =
            SamplerSettings { temperature: 1.0, top_p: 1.0, banned: Vec::new(), stops: vec![0, 2] };
        let banned = SamplerSettings { banned: vec![1], ..sharp.clone() };
        let draws = [
            Draw { row: 0, settings: &sharp, pick: Pick::Draw(0.5) },
            Draw { row: 0, settings: &banned, pick: Pick::Draw(0.5) },
            Draw { row: 0, settings: &banned, pick: Pick::Score(2) },
            Draw { row: 1, settings: &sharp, pick: Pick::Score(0) },
        ];
        let found = draw_tokens(&logits, &draws).unwrap();
        assert_eq!(found[0].as_ref().unwrap().token, 1);
        assert_eq!(found[1], Ok(Sampled { token: 0, logprob: 0.0 }));
        assert_eq!(found[2], Ok(Sampled { token: 2, logprob: 0.0 }));
        assert!(matches!(found[3], Err(SampleError::Logit { token: 2, .. })));
        assert!(draw_tokens(&logits, &[]).unwrap().is_empty());
        let outside = [Draw { row: 2, settings: &sharp, pick: Pick::Draw(0.5) }];
        let error = draw_tokens(&logits, &outside).expect_err("no such row").to_string();
        assert!(error.contains("row 2"), "{error}");
    }
}
