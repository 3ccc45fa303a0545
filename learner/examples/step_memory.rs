//! What one training step on 2,048 tokens of a model of Gemma-3-270M's exact shape takes: the peak
//! of resident memory after each stage, and the step's time. Weights are random, no file is read;
//! arguments are settings, `KEY=VALUE`. What the learner does in a run is not measured here.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use learner::checkpoint::{CheckpointStore, State};
use learner::collective::Solo;
use learner::step::Trainer;
use model::{ModelConfig, ModelFiles, ModelSource};
use settings::Layers;
use types::{
    Author, Finish, Generation, PolicyVersion, Rollout, RolloutParts, SampleIndex, Sampling, Share,
    Span, SpanEnd, Verdict,
};

const CONFIG: &str = r#"{"model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640,
    "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "intermediate_size": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0, "sliding_window": 512, "query_pre_attn_scalar": 256,
    "sliding_window_pattern": 6, "max_position_embeddings": 32768, "eos_token_id": [1, 106]}"#;
const ROLLOUTS: usize = 8;
const ROLLOUT_TOKENS: usize = 257; // 256 are read: all before the last
const PROMPT_TOKENS: usize = 64;

fn main() -> anyhow::Result<()> {
    let set = std::env::args().skip(1).collect();
    let settings = Layers { file: None, set, environment: Some(Vec::new()) }.load()?;
    let files = files()?;
    let texts = files.texts()?;
    let stops = files.config.stops.clone();
    let solo = Box::new(Solo::new(Generation(1)));
    let mut trainer = Trainer::new(&settings, files, &stops, solo)?;
    report("loaded")?;
    let rollouts = (0..ROLLOUTS).map(rollout).collect::<anyhow::Result<Vec<Rollout>>>()?;
    let weights = [1.0, -0.5, 0.7, -1.2, 0.4, -0.1, 0.9, -1.0];
    let weighted: Vec<(&Rollout, f32)> = rollouts.iter().zip(weights).collect();
    for step in 1..=2 {
        let started = Instant::now();
        let done = trainer.policy_step(&weighted, &|| false)?.context("nobody abandons it")?;
        let seconds = started.elapsed().as_secs_f64();
        println!("step {step}: {seconds:.1} s, loss {:.6}, norm {:.6}", done.loss, done.grad_norm);
        report("step")?;
    }
    let bytes = trainer.weights()?;
    println!("published {} MB", bytes.len() / 1_000_000);
    report("published")?;
    let dir = std::env::temp_dir().join(format!("step-memory-{}", std::process::id()));
    let state = State::new(1, PolicyVersion::new(1, 2), 1, settings.seed);
    let contents = trainer.contents(state, Arc::new(texts), Arc::new(bytes))?;
    let written = CheckpointStore::open(dir.clone(), 1).and_then(|store| store.write(contents));
    fs::remove_dir_all(&dir)?;
    written?;
    report("checkpoint")
}

/// Uniform weights of usual size.
fn files() -> anyhow::Result<ModelFiles> {
    let config = ModelConfig::parse(CONFIG, None, "the shape of Gemma-3-270M")?;
    let tokenizer = ModelSource::parse("builtin:miniature-strong")?.outline()?.tokenizer;
    let mut state = 1u64;
    let mut tensors = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let spread = if name.contains("norm") { 0.0 } else { 0.08 };
        let numbers = (0..shape.iter().product::<usize>()).map(|_| {
            // Knuth's linear congruential generator (MMIX), its upper bits.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * spread
        });
        let numbers: Vec<f32> = numbers.collect();
        tensors.insert(name, Tensor::from_vec(numbers, shape, &Device::Cpu)?);
    }
    Ok(ModelFiles { config, tokenizer, tensors, extras: BTreeMap::new() })
}

fn rollout(index: usize) -> anyhow::Result<Rollout> {
    let response = ROLLOUT_TOKENS - PROMPT_TOKENS;
    let column =
        |prompt: f32, own: f32| [vec![prompt; PROMPT_TOKENS], vec![own; response]].concat();
    let versions =
        [vec![PolicyVersion::default(); PROMPT_TOKENS], vec![PolicyVersion::new(1, 0); response]];
    let span = Span {
        author: Author::Strong,
        start: 0,
        len: response as u32,
        end: SpanEnd::Boundary,
        latency_us: 0,
        retries: 0,
    };
    let parts = RolloutParts {
        sample: SampleIndex(index as u32),
        prompt_len: PROMPT_TOKENS,
        tokens: (0..ROLLOUT_TOKENS as u32)
            .map(|t| (t * 997 + index as u32 * 31_337) % 262_144)
            .collect(),
        authors: [vec![Author::Prompt; PROMPT_TOKENS], vec![Author::Strong; response]].concat(),
        logprobs: column(0.0, -12.5),
        versions: versions.concat(),
        weak_logprobs: vec![f32::NAN; ROLLOUT_TOKENS],
        spans: vec![span],
        finish: Finish::End,
        sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 512, banned: vec![] },
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
    Ok(Rollout::new(parts)?)
}

/// The kernel's own count of this process's highest resident memory.
fn report(stage: &str) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("only Linux counts the peak")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.split_whitespace().next()).context("no VmHWM")?;
    let gigabytes = kilobytes.parse::<f64>()? * 1024.0 / 1e9;
    ensure!(gigabytes > 0.0, "the peak is 0");
    println!("{stage}: peak {gigabytes:.2} GB resident");
    Ok(())
}
