//! The sampler against distributions worked out by hand.

use super::*;

fn settings() -> SamplerSettings {
    SamplerSettings { temperature: 1.0, top_p: 1.0, banned: vec![], stops: vec![] }
}

/// Logits whose softmax at temperature 1 is `p`.
fn logits(p: &[f64]) -> Vec<f32> {
    p.iter().map(|p| p.ln() as f32).collect()
}

fn probabilities(logits: &[f32], settings: &SamplerSettings) -> Vec<f64> {
    let of = |id| f64::from(logprob_of(logits, settings, id as u32).unwrap()).exp();
    (0..logits.len()).map(of).collect()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    for (id, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() < 1e-6, "token {id}: {f} instead of {e} in {found:?}");
    }
}

/// A fixed stream of uniform numbers (splitmix64).
fn stream(n: u64) -> impl Iterator<Item = f64> {
    (1..=n).map(|i| {
        let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    })
}

/// Pearson's statistic of 20,000 draws; 99.9% of true samples stay below `limit`.
fn chi_square(settings: &SamplerSettings, logits: &[f32], expected: &[f64], limit: f64) {
    let n = 20_000;
    let mut counts = vec![0u32; logits.len()];
    for u in stream(n) {
        let drawn = sample(logits, settings, u).unwrap();
        let p = expected[drawn.token as usize];
        assert!((f64::from(drawn.logprob) - p.ln()).abs() < 1e-5, "{drawn:?} has probability {p}");
        counts[drawn.token as usize] += 1;
    }
    let mut statistic = 0.0;
    for (count, p) in counts.iter().zip(expected) {
        let mean = p * n as f64;
        if mean == 0.0 {
            assert_eq!(*count, 0);
        } else {
            statistic += (f64::from(*count) - mean).powi(2) / mean;
        }
    }
    assert!(statistic < limit, "chi-square {statistic} for {counts:?}");
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.5, 0.05, 0.25, 0.2];
    chi_square(&settings(), &logits(&p), &p, 16.27);
    // At temperature 1/2 the probabilities are squared: 0.25, 0.0025, 0.0625, 0.04 of 0.355.
    let cold = SamplerSettings { temperature: 0.5, ..settings() };
    let squared = [0.25 / 0.355, 0.0025 / 0.355, 0.0625 / 0.355, 0.04 / 0.355];
    chi_square(&cold, &logits(&p), &squared, 16.27);
    let all = SamplerSettings { top_p: 0.7, banned: vec![0], stops: vec![3, 1], ..settings() };
    // Without 0: .05, .25, .2 of .5; the stops 3 and 1 sum to .25 of .5, so both halves stay.
    chi_square(&all, &logits(&p), &[0.0, 0.0, 0.5, 0.5], 10.83);
}

#[test]
fn the_inverse_of_the_cumulative_distribution_is_exact_at_its_edges() {
    let l = logits(&[0.25, 0.25, 0.5]);
    let token = |u| sample(&l, &settings(), u).unwrap().token;
    assert_eq!([0.0, 0.2499, 0.2501, 0.4999, 0.5001].map(token), [0, 0, 1, 1, 2]);
    assert_eq!(token(1.0 - f64::EPSILON / 2.0), 2);
    // A last token of probability 0 is never drawn, however u rounds.
    let tail = [0.0, 0.0, f32::NEG_INFINITY];
    assert_eq!(sample(&tail, &settings(), 1.0 - f64::EPSILON / 2.0).unwrap().token, 1);
}

#[test]
fn top_p_keeps_the_smallest_sufficient_set() {
    let l = logits(&[0.1, 0.4, 0.2, 0.3]);
    let top = |top_p| probabilities(&l, &SamplerSettings { top_p, ..settings() });
    assert_close(&top(1.0), &[0.1, 0.4, 0.2, 0.3]);
    assert_close(&top(0.39), &[0.0, 1.0, 0.0, 0.0]);
    assert_close(&top(0.41), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
    assert_close(&top(0.95), &[0.1, 0.4, 0.2, 0.3]);
    assert_close(&top(1e-9), &[0.0, 1.0, 0.0, 0.0]);
    // Equal tokens: the lower ids stay.
    let even = SamplerSettings { top_p: 0.5, ..settings() };
    assert_close(&probabilities(&[1.0; 4], &even), &[0.5, 0.5, 0.0, 0.0]);
}

#[test]
fn banned_tokens_and_stops_move_their_probability() {
    let l = logits(&[0.1, 0.4, 0.2, 0.3]);
    let ban = SamplerSettings { banned: vec![1, 1], ..settings() };
    assert_close(&probabilities(&l, &ban), &[1.0 / 6.0, 0.0, 1.0 / 3.0, 0.5]);
    // Every stop reads as the canonical one.
    let stop = SamplerSettings { stops: vec![2, 0, 2], ..settings() };
    assert_close(&probabilities(&l, &stop), &[0.3, 0.4, 0.3, 0.3]);
    assert_eq!(sample(&l, &stop, 0.0).unwrap().token, 1);
    // Half of the ends is banned, then all of them.
    let half = SamplerSettings { banned: vec![0], stops: vec![2, 0], ..settings() };
    let found = probabilities(&l, &half);
    assert_close(&found[1..], &[4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
    let none = SamplerSettings { banned: vec![2], stops: vec![2, 0], ..settings() };
    assert_close(&probabilities(&l, &none)[1..], &[4.0 / 7.0, 0.0, 3.0 / 7.0]);
}

#[test]
fn greedy_takes_the_first_maximum_with_certainty() {
    let greedy = SamplerSettings { temperature: 0.0, ..settings() };
    for u in [0.0, 0.5, 0.999] {
        let drawn = sample(&[0.0, 2.0, 2.0, -1.0], &greedy, u).unwrap();
        assert_eq!(drawn, Sampled { token: 1, logprob: 0.0 });
    }
    assert_eq!(logprob_of(&[0.0, 2.0], &greedy, 0).unwrap(), f32::NEG_INFINITY);
    let end = SamplerSettings { stops: vec![0, 1], ..greedy.clone() };
    assert_eq!(sample(&[0.0, 2.0, 1.0], &end, 0.3).unwrap().token, 0);
    let ban = SamplerSettings { banned: vec![1], ..greedy };
    assert_eq!(sample(&[0.0, 2.0, 1.0], &ban, 0.3).unwrap().token, 2);
}

#[test]
fn broken_logits_and_settings_are_refused() {
    let message = |l: &[f32], s: &SamplerSettings| sample(l, s, 0.5).unwrap_err().to_string();
    assert!(message(&[0.0, f32::NAN], &settings()).contains("token 1"));
    assert!(message(&[f32::INFINITY], &settings()).contains("inf"));
    assert!(message(&[f32::NEG_INFINITY; 3], &settings()).contains("all 3"));
    let s = SamplerSettings { banned: vec![0, 1], ..settings() };
    assert!(message(&[0.0; 2], &s).contains("all 2"));
    assert!(message(&[0.0; 1], &s).contains("banned token 1"));
    let s = SamplerSettings { temperature: -1.0, ..settings() };
    assert!(message(&[0.0], &s).contains("temperature -1"));
    let s = SamplerSettings { top_p: 0.0, ..settings() };
    assert!(message(&[0.0], &s).contains("top_p 0"));
    assert!(sample(&[0.0], &settings(), 1.0).unwrap_err().to_string().contains("u 1"));
    assert!(logprob_of(&[0.0], &settings(), 7).unwrap_err().to_string().contains("token 7"));
}
