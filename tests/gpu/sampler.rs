//! Tokens that are drawn on the device: the CPU's for the same numbers, and as often as the law says.

use candle_core::{Device, Tensor};
use model::{Draw, Pick, SamplerSettings, draw_tokens};

use crate::tiny::numbers;

const VOCAB: usize = 5000;

/// As many as a law takes; few where a device is made of software.
fn draws() -> usize {
    if std::env::var_os("SOFTWARE_GPUS").is_some() { 2_000 } else { 40_000 }
}

#[test]
fn tokens_are_the_cpus_and_their_counts_the_laws() {
    let device = crate::device();
    let logits: Vec<f32> = numbers(1, 2 * VOCAB).iter().map(|x| 6.0 * *x as f32).collect();
    let here = Tensor::from_vec(logits, (2, VOCAB), &Device::Cpu).unwrap();
    let there = here.to_device(&device).unwrap();
    let plain = SamplerSettings {
        temperature: 1.0,
        top_p: 1.0,
        banned: Vec::new(),
        stops: vec![17, 18, 4000],
    };
    let cut = SamplerSettings { top_p: 0.8, banned: vec![5, 6], temperature: 0.7, ..plain.clone() };
    for settings in [&plain, &SamplerSettings { banned: vec![1, 2, 3], ..plain.clone() }, &cut] {
        let count = if settings.top_p < 1.0 { 300 } else { draws() };
        let draws: Vec<Draw<'_>> = (0..count)
            .map(|i| {
                let u = (i as f64 + 0.5) / count as f64;
                Draw { row: i % 2, settings, pick: Pick::Draw(u) }
            })
            .collect();
        let expected = draw_tokens(&here, &draws).unwrap();
        let found = draw_tokens(&there, &draws).unwrap();
        let (mut other, mut counts) = (0, vec![[0u32; 2]; VOCAB]);
        for (i, (a, b)) in expected.iter().zip(&found).enumerate() {
            let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
            counts[b.token as usize][i % 2] += 1;
            other += u32::from(a.token != b.token);
            if a.token == b.token {
                assert!((a.logprob - b.logprob).abs() < 1e-4, "{a:?} and {b:?}");
            }
        }
        // Only where a number falls on an edge of the cumulative distribution.
        assert!(other as usize <= 1 + count / 5000, "{other} of {count} tokens differ");
        if settings.top_p < 1.0 {
            continue;
        }
        // The numbers are evenly spread, so that each count is within 2 of its expectation.
        let scores: Vec<Draw<'_>> = (0..VOCAB as u32)
            .step_by(if count < 40_000 { 17 } else { 1 })
            .filter(|id| !settings.stops[1..].contains(id))
            .flat_map(|id| [0, 1].map(|row| Draw { row, settings, pick: Pick::Score(id) }))
            .collect();
        for (draw, score) in scores.iter().zip(draw_tokens(&there, &scores).unwrap()) {
            let score = score.unwrap();
            let expectation = f64::from(score.logprob).exp() * (count / 2) as f64;
            let counted = f64::from(counts[score.token as usize][draw.row]);
            assert!((counted - expectation).abs() <= 2.0, "{score:?}: {counted}, {expectation}");
        }
    }
}
