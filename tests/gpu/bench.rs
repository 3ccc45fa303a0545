//! Decoding speed and the time of a training step with random weights of a named shape, one JSON
//! line for each figure. `tests/gpu/peer.py` measures the same with PyTorch.
//!
//! gpu-bench SHAPE (qwen2.5-0.5b, qwen2.5-1.5b, tiny) PRECISION (f32, bf16) DEVICE (cpu, cuda)

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor, Var};
use device::{Wish, open};
use grpo::{AdamW, AdamWSettings, Gradients, Parameters};
use model::{
    Decoder, Draw, ModelConfig, Pick, RaggedEngine, RowInput, SamplerSettings, Scoring, Tensors,
    Want,
};
use serde_json::json;

/// Tokens that every row holds before decoding is timed.
const PROMPT: usize = 128;
/// Timed decoding steps.
const STEPS: usize = 64;
/// Rows and tokens of the training batch: 2,048 tokens.
const BATCH: (usize, usize) = (8, 256);
const BATCHES: [usize; 4] = [1, 8, 64, 256];
/// Positions whose logits are held at once.
const CHUNK: usize = 256;

struct Bench {
    config: ModelConfig,
    name: String,
    precision: DType,
    device: Device,
}

fn main() -> anyhow::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [name, precision, device] = given.as_slice() else {
        bail!("usage: gpu-bench SHAPE PRECISION DEVICE");
    };
    let precision = match precision.as_str() {
        "f32" => DType::F32,
        "bf16" => DType::BF16,
        other => bail!("a precision is f32 or bf16, not {other:?}"),
    };
    let wish = if device == "cuda" { Wish::Cuda } else { Wish::Cpu };
    let device = open(wish)?.device;
    let bench = Bench { config: shape(name)?, name: name.clone(), precision, device };
    let decoder = bench.decoder(precision)?;
    for rows in BATCHES {
        bench.decode(&decoder, rows)?;
    }
    drop(decoder);
    bench.train()
}

/// The shapes of the published `config.json`s.
fn shape(name: &str) -> anyhow::Result<ModelConfig> {
    let (hidden, layers, heads, kv, ff, vocab) = match name {
        "qwen2.5-0.5b" => (896, 24, 14, 2, 4864, 151_936),
        "qwen2.5-1.5b" => (1536, 28, 12, 2, 8960, 151_936),
        "tiny" => (128, 2, 4, 2, 256, 1000),
        other => bail!("no shape {other:?}: qwen2.5-0.5b, qwen2.5-1.5b or tiny"),
    };
    let value = json!({
        "model_type": "qwen2", "vocab_size": vocab, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "intermediate_size": ff, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
        "max_position_embeddings": 32_768, "tie_word_embeddings": true, "eos_token_id": 1,
    });
    ModelConfig::parse(&value.to_string(), None, name).context("the bench's own shape")
}

impl Bench {
    fn tensors(&self, dtype: DType) -> anyhow::Result<Tensors> {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let tensor = match name.contains("norm") {
                true => Tensor::ones(shape, DType::F32, &self.device)?,
                false => Tensor::randn(0f32, 0.02, shape, &self.device)?,
            };
            Ok((name, tensor.to_dtype(dtype)?))
        };
        self.config.tensors().into_iter().map(tensor).collect()
    }

    fn decoder(&self, dtype: DType) -> anyhow::Result<Decoder> {
        Ok(Decoder::new(self.config.clone(), self.tensors(dtype)?)?)
    }

    fn decode(&self, decoder: &Decoder, rows: usize) -> anyhow::Result<()> {
        let mut engine = RaggedEngine::new(decoder.clone(), rows, PROMPT + STEPS + 8)?;
        let settings = SamplerSettings {
            temperature: 1.0,
            top_p: 1.0,
            banned: Vec::new(),
            stops: self.config.stops.clone(),
        };
        let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| 2 + i % 900).collect();
        let input = RowInput { row: 0, tokens: &prompt, want: Want::Nothing };
        engine.step(&[input])?;
        for row in 1..rows {
            engine.copy_row(0, row)?;
        }
        let mut last = vec![5u32; rows];
        let mut begun = Instant::now();
        let warm_up = 4;
        for step in 0..STEPS + warm_up {
            if step == warm_up {
                self.device.synchronize()?;
                begun = Instant::now();
            }
            let inputs: Vec<RowInput<'_>> = last
                .iter()
                .enumerate()
                .map(|(row, token)| {
                    let tokens = std::slice::from_ref(token);
                    RowInput { row, tokens, want: Want::Last }
                })
                .collect();
            let output = engine.step(&inputs)?;
            let uniform = |row: usize| ((row * 7919 + step * 104_729) % 65_536) as f64 / 65_536.0;
            let draws: Vec<Draw<'_>> = (0..rows)
                .map(|row| Draw { row, settings: &settings, pick: Pick::Draw(uniform(row)) })
                .collect();
            let drawn = output.draw(&draws)?;
            for (token, drawn) in last.iter_mut().zip(drawn) {
                *token = drawn?.token;
            }
        }
        self.device.synchronize()?;
        let seconds = begun.elapsed().as_secs_f64();
        let rate = (rows * STEPS) as f64 / seconds;
        self.say(json!({"what": "decode", "rows": rows, "tokens_per_second": rate}));
        Ok(())
    }

    /// Forward, backward, clipping and AdamW, with f32 masters; the median of five.
    fn train(&self) -> anyhow::Result<()> {
        let vars: BTreeMap<String, Var> = self
            .tensors(DType::F32)?
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
            .collect::<anyhow::Result<_>>()?;
        let tracked = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let decoder = Decoder::new(self.config.clone(), tracked.collect())?;
        let decoder = decoder.computing_in(self.precision);
        let parameters = Parameters::new(vars)?;
        let mut optimizer = AdamW::new(parameters.clone(), AdamWSettings::default())?;
        let (rows, width) = BATCH;
        let count = (rows * width) as u32;
        let ids: Vec<u32> = (0..count).map(|i| 2 + i * 31 % 900).collect();
        let tokens = Tensor::from_vec(ids.clone(), (rows, width), &self.device)?;
        let select = Tensor::arange(0, count, &self.device)?;
        let targets = Tensor::new(ids, &self.device)?;
        let stops = self.config.stops.clone();
        let scoring = Scoring { temperature: 1.0, stops, chunk_tokens: CHUNK };
        let mut seconds = Vec::new();
        for _ in 0..6 {
            self.device.synchronize()?;
            let begun = Instant::now();
            let loss = decoder.logprobs(&tokens, &select, &targets, &scoring)?.mean_all()?;
            let mut gradients = Gradients::zeros(&parameters)?;
            gradients.accumulate(&parameters, &loss.neg()?.backward()?)?;
            gradients.clip_global_norm(1.0)?;
            optimizer.step(&gradients, 1e-6)?;
            self.device.synchronize()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        seconds.remove(0); // the first compiles and allocates
        seconds.sort_by(f64::total_cmp);
        self.say(json!({"what": "train", "tokens": count, "seconds": seconds[2]}));
        Ok(())
    }

    fn say(&self, mut figure: serde_json::Value) {
        figure["program"] = json!("tandem");
        figure["shape"] = json!(self.name);
        figure["precision"] = json!(self.precision.as_str());
        println!("{figure}");
    }
}
