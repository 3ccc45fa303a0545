//! Drawing one token from logits, exactly and in f64, as a pure function of (logits, settings, u).
//! Where the uniform number u comes from is the caller's business.

/// The distribution that is sampled from.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerSettings {
    /// 0 is greedy.
    pub temperature: f64,
    /// Keep the smallest set of most probable tokens with at least this mass; 1 keeps all.
    pub top_p: f64,
    /// Never drawn.
    pub banned: Vec<u32>,
    /// Ends of text; the first stands for all and gets their summed probability.
    pub stops: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    pub token: u32,
    /// Under the distribution that was sampled from, nats; 0 under greedy.
    pub logprob: f32,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    #[error(
        "logit {value} of token {token} is not a number: the weights or their input are broken"
    )]
    Logit { token: usize, value: f32 },
    #[error("no token is left to sample: all {0} are banned or impossible")]
    Nothing(usize),
    #[error("{name} {value} is out of range: {allowed}")]
    Setting { name: &'static str, value: f64, allowed: &'static str },
    #[error("{what} {id} is outside the {vocab} tokens")]
    Token { what: &'static str, id: u32, vocab: usize },
}

/// The token at which the cumulative distribution, in the order of ids, first exceeds `u` in
/// [0, 1).
///
/// # Errors
/// Logits that are NaN or +infinity, settings out of range, nothing left to draw.
pub fn sample(logits: &[f32], settings: &SamplerSettings, u: f64) -> Result<Sampled, SampleError> {
    check_uniform(u)?;
    let weights = distribution(logits, settings)?;
    let total: f64 = weights.iter().sum();
    let (mut cumulative, mut chosen) = (0.0, 0);
    for (id, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        cumulative += weight;
        chosen = id;
        if cumulative > u * total {
            break;
        }
    }
    Ok(Sampled { token: chosen as u32, logprob: (weights[chosen] / total).ln() as f32 })
}

/// Log-probability of `token` under the distribution that [`sample`] draws from; any stop counts
/// as the canonical one.
///
/// # Errors
/// As [`sample`], and a token outside the vocabulary.
pub fn logprob_of(
    logits: &[f32],
    settings: &SamplerSettings,
    token: u32,
) -> Result<f32, SampleError> {
    let weights = distribution(logits, settings)?;
    let token = if settings.stops.contains(&token) { settings.stops[0] } else { token };
    let Some(weight) = weights.get(token as usize) else {
        return Err(SampleError::Token { what: "token", id: token, vocab: logits.len() });
    };
    Ok((weight / weights.iter().sum::<f64>()).ln() as f32)
}

/// Weights proportional to the probabilities, in the order of ids.
fn distribution(logits: &[f32], settings: &SamplerSettings) -> Result<Vec<f64>, SampleError> {
    check(logits, settings)?;
    let SamplerSettings { temperature, top_p, banned, stops } = settings;
    let mut scores: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
    for id in banned {
        scores[*id as usize] = f64::NEG_INFINITY;
    }
    // A banned canonical end bans the end by whatever id.
    if stops.first().is_some_and(|end| banned.contains(end)) {
        stops.iter().for_each(|id| scores[*id as usize] = f64::NEG_INFINITY);
    }
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return Err(SampleError::Nothing(logits.len()));
    }
    let mut weights = scores;
    if *temperature == 0.0 {
        let best = weights.iter().position(|s| *s == max).expect("the maximum is among them");
        weights.fill(0.0);
        weights[best] = 1.0;
    } else {
        for weight in &mut weights {
            *weight = ((*weight - max) / temperature).exp();
        }
    }
    if let Some((end, others)) = stops.split_first() {
        for id in others.iter().filter(|id| *id != end) {
            weights[*end as usize] += std::mem::take(&mut weights[*id as usize]);
        }
    }
    if *top_p < 1.0 {
        keep_top(&mut weights, *top_p);
    }
    Ok(weights)
}

/// Zeroes all but the smallest set of largest weights that holds `top_p` of the sum; of equal
/// weights the lower id comes first.
fn keep_top(weights: &mut [f64], top_p: f64) {
    let enough = top_p * weights.iter().sum::<f64>();
    let mut order: Vec<usize> = (0..weights.len()).filter(|id| weights[*id] > 0.0).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
    let mut mass = 0.0;
    for id in order {
        if mass >= enough && mass > 0.0 {
            weights[id] = 0.0;
        } else {
            mass += weights[id];
        }
    }
}

fn check(logits: &[f32], settings: &SamplerSettings) -> Result<(), SampleError> {
    check_settings(settings, logits.len())?;
    match logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
        Some(token) => Err(SampleError::Logit { token, value: logits[token] }),
        None => Ok(()),
    }
}

pub(crate) fn check_uniform(u: f64) -> Result<(), SampleError> {
    match (0.0..1.0).contains(&u) {
        true => Ok(()),
        false => Err(SampleError::Setting { name: "u", value: u, allowed: "in [0, 1)" }),
    }
}

/// What does not need the logits, of which there are `vocab`.
pub(crate) fn check_settings(settings: &SamplerSettings, vocab: usize) -> Result<(), SampleError> {
    let (temperature, top_p) = (settings.temperature, settings.top_p);
    if !(temperature >= 0.0 && temperature.is_finite()) {
        let allowed = "0 (greedy) or a positive number";
        return Err(SampleError::Setting { name: "temperature", value: temperature, allowed });
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(SampleError::Setting { name: "top_p", value: top_p, allowed: "in (0, 1]" });
    }
    for (what, ids) in [("banned token", &settings.banned), ("stop", &settings.stops)] {
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(SampleError::Token { what, id: *id, vocab });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
