//! The shipped miniature writes held-out solutions; the training forward must give each token the
//! log-probability that it was sampled with.

use candle_core::{DType, Device, Tensor};
use miniature::{Split, Style, draw};
use model::{
    ModelSource, Placement, RaggedEngine, RowInput, SamplerSettings, Want, logprobs, sample,
};

use crate::tiny;

const ROWS: usize = 12;
const LONGEST: usize = 30;

/// One text as it was written.
struct Written {
    prompt: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f64>,
    /// From decoding, before each written token.
    logits: Vec<Vec<f64>>,
}

fn write(source: &str) -> (model::Decoder, Vec<Written>) {
    let source = ModelSource::parse(source).unwrap();
    let files = source.load(0, &Placement::cpu(DType::F32)).unwrap();
    let decoder = files.decoder().unwrap();
    let stops = files.config.stops.clone();
    let settings = SamplerSettings { temperature: 1.0, top_p: 1.0, banned: vec![], stops };
    let mut engine = RaggedEngine::new(&decoder, ROWS, 128).unwrap();
    let prompt = |i| draw(Split::HeldOut, 5, i, Style::Plain).question;
    let mut texts: Vec<Written> = (0..ROWS as u64)
        .map(|i| files.tokenizer.encode(&prompt(i)).unwrap())
        .map(|tokens| Written { prompt: tokens.len(), tokens, logprobs: vec![], logits: vec![] })
        .collect();
    let uniforms = tiny::numbers(17, ROWS * LONGEST);
    let mut live: Vec<usize> = (0..ROWS).collect();
    for round in 0..LONGEST {
        let inputs = live.iter().map(|row| {
            let tokens = &texts[*row].tokens[engine.len(*row)..];
            RowInput { row: *row, tokens, want: Want::Last }
        });
        let inputs: Vec<RowInput<'_>> = inputs.collect();
        let out = engine.step(&inputs).unwrap();
        let logits = out.logits.to_vec2::<f32>().unwrap();
        for (wanted, logits) in out.wanted.iter().zip(logits) {
            let u = (uniforms[round * ROWS + wanted.row] + 1.0) / 2.0;
            let drawn = sample(&logits, &settings, u).unwrap();
            let text = &mut texts[wanted.row];
            text.tokens.push(drawn.token);
            text.logprobs.push(f64::from(drawn.logprob));
            text.logits.push(logits.iter().map(|l| f64::from(*l)).collect());
        }
        live.retain(|row| !settings.stops.contains(texts[*row].tokens.last().unwrap()));
        if live.is_empty() {
            break;
        }
    }
    (decoder, texts)
}

fn check(source: &str) {
    let (decoder, texts) = write(source);
    let width = texts.iter().map(|t| t.tokens.len()).max().unwrap();
    let mut tokens = vec![0u32; ROWS * width];
    let (mut select, mut targets) = (Vec::new(), Vec::new());
    for (row, text) in texts.iter().enumerate() {
        let start = row * width;
        tokens[start..start + text.tokens.len()].copy_from_slice(&text.tokens);
        for position in text.prompt..text.tokens.len() {
            select.push((start + position - 1) as u32);
            targets.push(text.tokens[position]);
        }
    }
    let ended = texts.iter().filter(|t| decoder.config().stops.contains(t.tokens.last().unwrap()));
    assert!(ended.count() >= ROWS - 1, "{source} does not end its texts: it is not trained");
    let tokens = Tensor::from_vec(tokens, (ROWS, width), &Device::Cpu).unwrap();
    let select = Tensor::new(select, &Device::Cpu).unwrap();
    let targets = Tensor::new(targets, &Device::Cpu).unwrap();
    let logits = decoder.logits(&tokens, &select).unwrap();
    let own = logprobs(&logits, &targets, 1.0, &decoder.config().stops).unwrap();
    let own = own.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let sampled: Vec<f64> = texts.iter().flat_map(|t| t.logprobs.clone()).collect();
    assert_eq!(own.len(), sampled.len());
    let off = own.iter().zip(&sampled).fold(0.0, |worst, (a, b)| f64::max(worst, (a - b).abs()));
    assert!(off < 1e-4, "{source}: sampled tokens are {off:e} apart");
    let decoded: Vec<Vec<f64>> = texts.into_iter().flat_map(|t| t.logits).collect();
    let off = tiny::distance(&tiny::rows(&logits), &decoded);
    assert!(off < 1e-3, "{source}: the vocabulary is {off:e} apart");
}

#[test]
fn the_trained_miniature_agrees_with_its_own_samples() {
    check("builtin:miniature-strong");
    check("builtin:miniature-weak");
}
