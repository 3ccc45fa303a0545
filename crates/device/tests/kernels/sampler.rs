//! Drawing tokens against the sampler on the CPU, from the same uniform numbers.

use device::{DrawTokens, ScoreSlopes};
use model::{SampleError, Sampled, SamplerSettings};

use crate::emulator::Memory;
use crate::{close, numbers};

const VOCAB: usize = 500;
/// Of which the last are padding.
const WIDTH: usize = 512;
const ROWS: usize = 3;
const THREADS: u32 = 64;

/// A uniform number, or a token to score.
#[derive(Clone, Copy)]
enum Pick {
    Draw(f64),
    Score(u32),
}

struct Case<'a> {
    settings: SamplerSettings,
    draws: &'a [(usize, Pick)],
}

fn settings(temperature: f64) -> SamplerSettings {
    SamplerSettings { temperature, top_p: 1.0, banned: Vec::new(), stops: vec![7, 3, 450] }
}

fn logits() -> Vec<f32> {
    numbers(1, ROWS * WIDTH).iter().map(|x| x * 5.0).collect()
}

/// Token, log-probability and fault of each draw.
fn drawn(logits: &[f32], case: &Case<'_>) -> Vec<(u32, f32, u32)> {
    let mut bits = vec![0u32; WIDTH.div_ceil(32)];
    case.settings.banned.iter().for_each(|id| bits[*id as usize / 32] |= 1 << (id % 32));
    let draws = case.draws.iter().flat_map(|(row, pick)| {
        let (u, target) = match pick {
            Pick::Draw(u) => (*u, u32::MAX),
            Pick::Score(target) => (0.0, *target),
        };
        [u.to_bits(), *row as u64 | u64::from(target) << 32].map(u64::to_le_bytes).concat()
    });
    let draws: Vec<u8> = draws.collect();
    let mut memory = Memory::default();
    let stops = &case.settings.stops;
    let call = DrawTokens {
        drawn: memory.bytes(vec![255; 12 * case.draws.len()]),
        logits: memory.f32(logits),
        draws: memory.bytes(draws),
        count: case.draws.len() as u32,
        banned: (!case.settings.banned.is_empty()).then(|| memory.u32(&bits)),
        stops: (!stops.is_empty()).then(|| memory.u32(stops)),
        stop_count: stops.len() as u32,
        width: WIDTH as u32,
        vocab: VOCAB as u32,
        temperature: case.settings.temperature,
        threads: THREADS,
    };
    memory.run(&call.call());
    let words = memory.read_u32(call.drawn);
    words.as_chunks::<3>().0.iter().map(|[t, l, f]| (*t, f32::from_bits(*l), *f)).collect()
}

/// The same by the sampler on the CPU.
fn check(case: &Case<'_>) {
    let logits = logits();
    for ((row, pick), (token, logprob, fault)) in case.draws.iter().zip(drawn(&logits, case)) {
        let row = &logits[row * WIDTH..row * WIDTH + VOCAB];
        let expected = match pick {
            Pick::Draw(u) => model::sample(row, &case.settings, *u).unwrap(),
            Pick::Score(token) => {
                let logprob = model::logprob_of(row, &case.settings, *token).unwrap();
                let stop = case.settings.stops.contains(token);
                Sampled { token: if stop { case.settings.stops[0] } else { *token }, logprob }
            }
        };
        assert_eq!((token, fault), (expected.token, 0));
        let same = logprob == expected.logprob || (logprob - expected.logprob).abs() < 1e-6;
        assert!(same, "{logprob} is not {}", expected.logprob);
    }
}

/// Evenly spread over [0, 1) and both ends.
fn spread(count: usize) -> Vec<(usize, Pick)> {
    let inner = (0..count).map(|i| (i % ROWS, Pick::Draw((i as f64 + 0.37) / count as f64)));
    inner.chain([(0, Pick::Draw(0.0)), (1, Pick::Draw(1.0 - f64::EPSILON / 2.0))]).collect()
}

#[test]
fn the_same_numbers_draw_the_same_tokens() {
    check(&Case { settings: settings(1.0), draws: &spread(300) });
    check(&Case { settings: settings(0.3), draws: &spread(60) });
    let mut banned = settings(1.3);
    banned.banned = (100..400).collect();
    check(&Case { settings: banned, draws: &spread(60) });
    let mut endless = settings(1.0);
    endless.banned = vec![7];
    check(&Case { settings: endless, draws: &spread(60) });
    let plain = SamplerSettings { stops: Vec::new(), ..settings(1.0) };
    check(&Case { settings: plain, draws: &spread(60) });
}

#[test]
fn scores_and_greedy_choices_are_the_cpus() {
    let scores: Vec<(usize, Pick)> =
        [0, 3, 7, 450, 499, 12].iter().map(|t| (*t as usize % ROWS, Pick::Score(*t))).collect();
    check(&Case { settings: settings(0.8), draws: &scores });
    check(&Case { settings: settings(0.0), draws: &spread(3) });
    let greedy = model::sample(&logits()[..VOCAB], &settings(0.0), 0.0).unwrap().token;
    check(&Case {
        settings: settings(0.0),
        draws: &[(0, Pick::Score(greedy)), (0, Pick::Score(greedy + 1))],
    });
    // The best logit is a stop that stands for another.
    let mut ended = settings(0.0);
    ended.stops = vec![7, greedy];
    check(&Case { settings: ended, draws: &[(0, Pick::Draw(0.5)), (0, Pick::Score(greedy))] });
}

#[test]
fn broken_logits_and_empty_choices_are_named() {
    let mut broken = logits();
    broken[17] = f32::INFINITY;
    broken[WIDTH + 9] = f32::NAN;
    broken[WIDTH + 200] = f32::NAN;
    let case = Case { settings: settings(1.0), draws: &[0, 1, 2].map(|r| (r, Pick::Draw(0.5))) };
    let found = drawn(&broken, &case);
    assert_eq!((found[0].0, found[0].2, found[1].0, found[1].2), (17, 1, 9, 1));
    assert_eq!(found[2].2, 0);
    let mut nothing = settings(1.0);
    nothing.banned = (0..VOCAB as u32).collect();
    let error = model::sample(&logits()[..VOCAB], &nothing, 0.5);
    assert!(matches!(error, Err(SampleError::Nothing(_))));
    let found = drawn(&logits(), &Case { settings: nothing, draws: &[(0, Pick::Draw(0.5))] });
    assert_eq!(found[0].2, 2);
}

#[test]
fn the_slopes_of_scores_are_their_differences() {
    let (logits, targets, slopes) = (logits(), [7u32, 499, 450], [0.5f32, -2.0, 1.5]);
    for stops in [vec![7, 3, 450], Vec::new()] {
        let settings = SamplerSettings { stops, ..settings(0.7) };
        let mut memory = Memory::default();
        let call = ScoreSlopes {
            logits: memory.f32(&logits),
            targets: memory.u32(&targets),
            slopes: memory.f32(&slopes),
            stops: (!settings.stops.is_empty()).then(|| memory.u32(&settings.stops)),
            stop_count: settings.stops.len() as u32,
            rows: ROWS as u32,
            width: WIDTH as u32,
            vocab: VOCAB as u32,
            temperature: 0.7,
            threads: THREADS,
        };
        memory.run(&call.call());
        // In f64: logits shared with the sampler are f32, too coarse for differences.
        let logprob = |row: &[f64], target: u32| -> f64 {
            let weight = |id: usize| (row[id] / 0.7).exp();
            let ends = settings.stops.contains(&target);
            let own: f64 = match ends {
                true => settings.stops.iter().map(|id| weight(*id as usize)).sum(),
                false => weight(target as usize),
            };
            (own / (0..VOCAB).map(weight).sum::<f64>()).ln()
        };
        let mut expected = vec![0.0; ROWS * WIDTH];
        for row in 0..ROWS {
            let mut own: Vec<f64> =
                logits[row * WIDTH..][..WIDTH].iter().map(|x| f64::from(*x)).collect();
            for id in 0..VOCAB {
                let mut at = |by: f64| {
                    own[id] += by;
                    let logprob = logprob(&own, targets[row]);
                    own[id] -= by;
                    logprob
                };
                let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                expected[row * WIDTH + id] = slope * f64::from(slopes[row]);
            }
        }
        close(&memory.read_f32(call.logits), &expected, 1e-6);
    }
}
