//! The policy loss over strong tokens, as a function of their log-probabilities.
//! Forward passes, advantages and the all-reduced denominator come from outside.
//!
//! A loss of N log-probabilities needs N values and N slopes. Both are computed here, on the
//! host, in f64, without overflow; the returned tensor has this value, and its backward pass
//! hands these slopes on to the log-probabilities.

use candle_core::{DType, Tensor};

use crate::{Error, RawStats, TokenColumns};

/// What the importance ratio is taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RatioLevel {
    /// Each token by itself (PPO, GRPO).
    #[default]
    Token,
    /// exp of the mean log-ratio over the sequence's strong tokens (GSPO, arXiv 2507.18071, eq. 7).
    Sequence,
    /// No clipping: −weight · logp (REINFORCE), under a truncation cap c times the constant
    /// min(r, c) of the token's own ratio r.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSettings {
    /// Ratios below 1 − `clip_low` get no gradient where the advantage is negative …
    pub clip_low: f64,
    /// … and above 1 + `clip_high` none where it is positive.
    pub clip_high: f64,
    /// Truncated importance sampling: no token weighs more than this.
    pub truncate_ratio: Option<f64>,
    /// Coefficient of the KL to the run's start.
    pub kl: f64,
    pub ratio: RatioLevel,
}

impl Default for LossSettings {
    fn default() -> Self {
        let ratio = RatioLevel::Token;
        Self { clip_low: 0.2, clip_high: 0.2, truncate_ratio: None, kl: 0.0, ratio }
    }
}

impl LossSettings {
    /// # Errors
    /// A value out of its range, by name.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |name, value, range| Err(Error::Setting { name, value, range });
        if !(0.0..1.0).contains(&self.clip_low) {
            return refuse("clip_low", self.clip_low, "it must be at least 0 and below 1");
        }
        if !(self.clip_high >= 0.0 && self.clip_high.is_finite()) {
            return refuse("clip_high", self.clip_high, "it must be at least 0");
        }
        match self.truncate_ratio {
            Some(cap) if !(cap >= 1.0 && cap.is_finite()) => {
                return refuse("truncate_ratio", cap, "it must be at least 1");
            }
            _ => {}
        }
        if !(self.kl >= 0.0 && self.kl.is_finite()) {
            return refuse("kl", self.kl, "it must be at least 0");
        }
        Ok(())
    }
}

/// One entry per strong token everywhere.
#[derive(Clone, Copy, Debug)]
pub struct LossInputs<'a> {
    /// Of the training forward, at the temperature of sampling; carries the graph.
    pub logprobs: &'a Tensor, // [N]
    /// The same tokens under the run's start; a constant.
    pub reference: Option<&'a Tensor>, // [N]
    pub columns: &'a TokenColumns,
}

#[derive(Clone, Debug)]
pub struct LossOutput {
    /// Already divided by the denominator: gradients of micro-batches and ranks simply add up.
    pub loss: Tensor, // []
    /// The value of `loss`, before it is rounded to the tensor's dtype.
    pub value: f64,
    pub stats: RawStats,
}

/// `denominator` is the count of strong tokens over all micro-batches and ranks of the step.
///
/// Clipped surrogate (PPO, arXiv 1707.06347, eq. 7; GRPO, arXiv 2402.03300, eq. 3), as a loss per
/// token with r = exp(logp − sampler logp): −min(r·A, clip(r, 1−low, 1+high)·A), times the
/// constant min(r, c)/r under a truncation cap c, plus kl · k3.
///
/// # Errors
/// Columns of different lengths, log-probabilities that are not finite, settings out of range.
pub fn policy_loss(
    inputs: &LossInputs<'_>,
    settings: &LossSettings,
    denominator: f64,
) -> Result<LossOutput, Error> {
    settings.check()?;
    if !(denominator > 0.0 && denominator.is_finite()) {
        return Err(Error::Denominator(denominator));
    }
    let host = HostColumns::new(inputs, settings)?;
    let mut stats = RawStats::default();
    let mut slopes = Vec::with_capacity(host.logprobs.len());
    for (index, logp) in host.logprobs.iter().enumerate() {
        let weight = f64::from(inputs.columns.weights[index]);
        let mut term = match settings.ratio {
            RatioLevel::Off => likelihood(*logp, host.log_ratios[index], weight, settings),
            RatioLevel::Token | RatioLevel::Sequence => {
                surrogate(host.effective[index], weight, settings)
            }
        };
        if let Some(reference) = &host.reference {
            let (k3, slope) = k3_to_reference(*logp, reference[index]);
            stats.kl_start += k3;
            term.value += settings.kl * k3;
            term.slope += settings.kl * slope;
        }
        stats.loss += term.value;
        stats.surprisal -= logp;
        count_token(&mut stats, inputs.columns.lags[index], host.log_ratios[index], &term);
        slopes.push(term.slope / denominator);
    }
    let value = stats.loss / denominator;
    let loss = with_value_and_slopes(inputs.logprobs, value, slopes)?;
    Ok(LossOutput { loss, value, stats })
}

/// A scalar of the given value whose gradient with respect to `at` is `slopes`: the loss's
/// linearisation around the present log-probabilities.
pub(crate) fn with_value_and_slopes(
    at: &Tensor,
    value: f64,
    slopes: Vec<f64>,
) -> Result<Tensor, Error> {
    let slopes = Tensor::new(slopes, at.device())?.to_dtype(at.dtype())?; // [N]
    let moving = (at.sub(&at.detach())? * slopes)?; // exactly 0, with the wanted gradient
    Ok((moving.sum_all()? + value)?)
}

pub(crate) fn to_host(
    what: &'static str,
    tensor: &Tensor,
    expected: usize,
) -> Result<Vec<f64>, Error> {
    let values = tensor.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    if values.len() != expected {
        return Err(Error::Length { what, found: values.len(), expected });
    }
    check_finite(what, &values)?;
    Ok(values)
}

fn check_finite(what: &'static str, values: &[f64]) -> Result<(), Error> {
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((index, value)) => Err(Error::TokenNotFinite { what, index, value: *value }),
        None => Ok(()),
    }
}

/// The inputs as checked f64 columns.
struct HostColumns {
    logprobs: Vec<f64>,
    /// Per token, for the statistics.
    log_ratios: Vec<f64>,
    /// What the surrogate uses: per token, or its sequence's mean.
    effective: Vec<f64>,
    reference: Option<Vec<f64>>,
}

impl HostColumns {
    fn new(inputs: &LossInputs<'_>, settings: &LossSettings) -> Result<Self, Error> {
        let columns = inputs.columns;
        let count = columns.weights.len();
        let lengths = [
            ("sampler log-probabilities", columns.sampler_logprobs.len()),
            ("lags", columns.lags.len()),
            ("sequence indices", columns.sequences.len()),
        ];
        for (what, found) in lengths {
            if found != count {
                return Err(Error::Length { what, found, expected: count });
            }
        }
        let logprobs = to_host("log-probability", inputs.logprobs, count)?;
        let sampler: Vec<f64> = columns.sampler_logprobs.iter().map(|l| f64::from(*l)).collect();
        check_finite("sampler log-probability", &sampler)?;
        let weights: Vec<f64> = columns.weights.iter().map(|w| f64::from(*w)).collect();
        check_finite("weight", &weights)?;
        let reference = match inputs.reference {
            Some(tensor) => Some(to_host("log-probability under the run's start", tensor, count)?),
            None if settings.kl > 0.0 => return Err(Error::NoReference { kl: settings.kl }),
            None => None,
        };
        let log_ratios: Vec<f64> = logprobs.iter().zip(&sampler).map(|(l, s)| l - s).collect();
        let effective = match settings.ratio {
            RatioLevel::Sequence => sequence_means(&log_ratios, &columns.sequences),
            RatioLevel::Token | RatioLevel::Off => log_ratios.clone(),
        };
        Ok(Self { logprobs, log_ratios, effective, reference })
    }
}

/// Each token's sequence mean. All tokens of a sequence share weight and mean, so their slopes
/// with respect to the mean are equal, and n tokens × slope / n leaves each token that slope.
fn sequence_means(log_ratios: &[f64], sequences: &[u32]) -> Vec<f64> {
    let count = sequences.iter().max().map_or(0, |last| *last as usize + 1);
    let mut sums = vec![(0.0, 0.0); count];
    for (log_ratio, sequence) in log_ratios.iter().zip(sequences) {
        let (sum, tokens) = &mut sums[*sequence as usize];
        *sum += log_ratio;
        *tokens += 1.0;
    }
    let mean = |sequence: &u32| sums[*sequence as usize].0 / sums[*sequence as usize].1;
    sequences.iter().map(mean).collect()
}

/// One token's loss and its derivative with respect to the token's log-probability.
#[derive(Clone, Copy, Debug)]
struct Term {
    value: f64,
    slope: f64,
    clipped: bool,
    truncated: bool,
}

/// The weighted log-likelihood; truncated importance sampling corrects for older samplers.
fn likelihood(logp: f64, log_ratio: f64, weight: f64, settings: &LossSettings) -> Term {
    let ratio = log_ratio.exp();
    let (factor, truncated) = match settings.truncate_ratio {
        Some(cap) => (ratio.min(cap), ratio > cap),
        None => (1.0, false),
    };
    let slope = -weight * factor;
    Term { value: slope * logp, slope, clipped: false, truncated }
}

/// The clipped, truncated surrogate. Written by cases so that a huge ratio stays finite wherever
/// its term is: times c/r, an unclipped r becomes c.
fn surrogate(log_ratio: f64, advantage: f64, settings: &LossSettings) -> Term {
    let ratio = log_ratio.exp();
    let cap = settings.truncate_ratio.unwrap_or(f64::INFINITY);
    let truncated = ratio > cap;
    let (low, high) = (1.0 - settings.clip_low, 1.0 + settings.clip_high);
    let bound = match advantage {
        a if a > 0.0 && ratio > high => Some(high),
        a if a < 0.0 && ratio < low => Some(low),
        _ => None,
    };
    let (value, slope) = match bound {
        Some(bound) => {
            let scale = if truncated { cap / ratio } else { 1.0 };
            (-bound * advantage * scale, 0.0)
        }
        None => {
            let weight = ratio.min(cap);
            (-weight * advantage, -weight * advantage)
        }
    };
    Term { value, slope, clipped: bound.is_some(), truncated }
}

/// k3 of KL(policy ‖ start), "Approximating KL divergence" (Schulman): exp(d) − d − 1 with
/// d = ref − logp, and its derivative with respect to logp.
fn k3_to_reference(logp: f64, reference: f64) -> (f64, f64) {
    let d = reference - logp;
    (d.exp_m1() - d, -d.exp_m1())
}

fn count_token(stats: &mut RawStats, lag: u32, log_ratio: f64, term: &Term) {
    let ratio = log_ratio.exp();
    let class = stats.class(lag);
    class.tokens += 1.0;
    class.k3 += log_ratio.exp_m1() - log_ratio;
    class.ratio += ratio;
    class.ratio_squared += ratio * ratio;
    class.clipped += f64::from(u8::from(term.clipped));
    class.truncated += f64::from(u8::from(term.truncated));
    class.largest = class.largest.max(log_ratio.abs());
}

#[cfg(test)]
mod tests;
