//! A learner of the miniature on the device and on the CPU: steps on rollouts, with all weights or with
//! adapters, what it publishes, and a checkpoint that is gone on with.

use std::sync::Arc;

use candle_core::{DType, Device};
use learner::checkpoint::{CheckpointStore, State, load_checkpoint};
use learner::collective::Solo;
use learner::step::Trainer;
use model::{ModelSource, Placement, from_safetensors};
use settings::{Precision, Settings};
use types::{
    Author, Finish, Generation, PolicyVersion, Rollout, RolloutParts, SampleIndex, Sampling, Share,
    Span, SpanEnd, Verdict,
};

use crate::tiny::{distance, ids, values};

const PROMPT: usize = 9;
const STRONG: usize = 14;
const WEAK: usize = 6;

/// With a divergence from the start and ratios per token.
fn settings(lora_rank: u32, by_blocks: bool) -> Settings {
    let mut settings = Settings { seed: 3, ..Settings::default() };
    settings.strong.model = "fresh:miniature-strong".to_owned();
    settings.compute.precision = Precision::F32;
    settings.train.lora.rank = lora_rank;
    settings.train.recompute_blocks = by_blocks;
    settings.train.kl = 0.1;
    settings.train.warmup_steps = 0;
    settings.train.learning_rate = 1e-3;
    settings.train.micro_batch_tokens = 64; // several of them
    settings
}

fn trainer(settings: &Settings, device: &Device) -> Trainer {
    let source = ModelSource::parse(&settings.strong.model).unwrap();
    let placement = Placement { device: device.clone(), ..Placement::cpu(DType::F32) };
    let files = source.load(settings.seed, &placement).unwrap();
    let stops = files.config.stops.clone();
    Trainer::new(settings, files, &stops, Box::new(Solo::new(Generation(1)))).unwrap()
}

/// The strong model, then the weak one; log-probabilities that a fresh model is likely to have given.
fn rollout(seed: u64, step: u32) -> Rollout {
    let response = STRONG + WEAK;
    let column = |prompt: f32, own: f32| [vec![prompt; PROMPT], vec![own; response]].concat();
    let authors =
        [vec![Author::Prompt; PROMPT], vec![Author::Strong; STRONG], vec![Author::Weak; WEAK]];
    let sampled = [vec![PolicyVersion::new(1, step); STRONG], vec![PolicyVersion::default(); WEAK]];
    let span = |author, start: usize, len: usize, end| Span {
        author,
        start: start as u32,
        len: len as u32,
        end,
        latency_us: 0,
        retries: 0,
    };
    let parts = RolloutParts {
        sample: SampleIndex(seed as u32),
        prompt_len: PROMPT,
        tokens: ids(seed, PROMPT + response).iter().map(|id| id % 140).collect(),
        authors: authors.concat(),
        logprobs: column(0.0, -5.0),
        versions: [vec![PolicyVersion::default(); PROMPT], sampled.concat()].concat(),
        weak_logprobs: vec![f32::NAN; PROMPT + response],
        spans: vec![
            span(Author::Strong, 0, STRONG, SpanEnd::Boundary),
            span(Author::Weak, STRONG, WEAK, SpanEnd::Boundary),
        ],
        finish: Finish::End,
        sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 64, banned: vec![] },
        forced_redraws: 0,
        verdict: Verdict {
            text: String::new(),
            extracted: None,
            answered_by: None,
            correct: true,
            reward: 1.0,
            jargon: Share::default(),
        },
    };
    Rollout::new(parts).unwrap()
}

fn step(trainer: &mut Trainer, step: u32) -> (f64, f64) {
    let rollouts: Vec<Rollout> = (0..4).map(|i| rollout(u64::from(10 * step + i), step)).collect();
    let weights = [1.0, -0.5, 0.7, -1.2];
    let weighted: Vec<(&Rollout, f32)> = rollouts.iter().zip(weights).collect();
    let report = trainer.policy_step(&weighted, &|| false).unwrap().unwrap();
    (report.loss, report.grad_norm)
}

/// Everything that is published, in one row.
fn published(trainer: &Trainer) -> Vec<f32> {
    let bytes = trainer.weights().unwrap();
    let tensors = from_safetensors(&bytes, "published", &Placement::cpu(DType::F32)).unwrap();
    tensors.values().flat_map(values).collect()
}

#[test]
fn steps_and_what_is_published_agree_with_the_cpus() {
    let device = crate::device();
    for (lora_rank, by_blocks) in [(0, false), (0, true), (4, false), (4, true)] {
        let settings = settings(lora_rank, by_blocks);
        let (mut here, mut there) = (trainer(&settings, &Device::Cpu), trainer(&settings, &device));
        let case = format!("rank {lora_rank}, by blocks {by_blocks}");
        assert_eq!(published(&here), published(&there), "{case}");
        for number in 0..3 {
            let (a, b) = (step(&mut here, number), step(&mut there, number));
            assert!(
                (a.0 - b.0).abs() < 1e-4 && (a.1 / b.1 - 1.0).abs() < 1e-3,
                "{case}: {a:?} {b:?}"
            );
        }
        // Adam's first updates are the signs of gradients, which may be near 0.
        let (here, there) = (published(&here), published(&there));
        let close = here.iter().zip(&there).filter(|(a, b)| (*a - *b).abs() <= 1e-3).count();
        let share = close as f64 / here.len() as f64;
        assert!(share >= 0.999, "{case}: only {share} are close");
    }
}

#[test]
fn a_checkpoint_is_gone_on_with() {
    let device = crate::device();
    for lora_rank in [0, 4] {
        let settings = settings(lora_rank, true);
        let mut before = trainer(&settings, &device);
        step(&mut before, 0);
        let source = ModelSource::parse(&settings.strong.model).unwrap();
        let texts =
            source.load(settings.seed, &Placement::cpu(DType::F32)).unwrap().texts().unwrap();
        let state = State::new(1, PolicyVersion::new(1, 1), 1, settings.seed);
        let weights = Arc::new(before.weights().unwrap());
        let contents = before.contents(state, Arc::new(texts), weights).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
        store.write(contents).unwrap();
        let mut after = trainer(&settings, &device);
        after.restore(&load_checkpoint(&store.path(1)).unwrap()).unwrap();
        assert_eq!(published(&before), published(&after));
        let (a, b) = (step(&mut before, 1), step(&mut after, 1));
        assert!((a.0 - b.0).abs() < 1e-6 && (a.1 / b.1 - 1.0).abs() < 1e-5, "{a:?} and {b:?}");
        assert!(distance(&published(&before), &published(&after)) <= 1e-4);
    }
}
