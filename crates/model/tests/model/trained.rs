//! The shipped miniature writes held-out solutions, strong and weak model in turns; the training
//! forward must give each token the log-probability that its author sampled it with.

use candle_core::{DType, Device, Tensor};
use miniature::{Split, Style, draw};
use model::{
    Decoder, ModelFiles, ModelSource, Placement, RaggedEngine, RowInput, SamplerSettings, Want,
    logprobs, sample,
};

use crate::tiny;

const ROWS: usize = 12;
const LONGEST: usize = 30;
const STRONG: usize = 0;
const WEAK: usize = 1;

/// A written token: which model drew it, with what probability, out of which logits.
struct Drawn {
    author: usize,
    logprob: f64,
    logits: Vec<f64>,
}

struct Text {
    prompt: usize,
    tokens: Vec<u32>,
    drawn: Vec<Drawn>,
}

impl Text {
    /// Positions of the tokens that `author` wrote, with what is known of each.
    fn by(&self, author: usize) -> impl Iterator<Item = (usize, &Drawn)> {
        let all = self.drawn.iter().enumerate().map(|(at, drawn)| (self.prompt + at, drawn));
        all.filter(move |(_, drawn)| drawn.author == author)
    }
}

fn load(name: &str) -> ModelFiles {
    let source = ModelSource::parse(name).unwrap();
    source.load(0, &Placement::cpu(DType::F32)).unwrap()
}

/// Every author reads what the other wrote in one chunk, before its own next token.
fn write(models: &[ModelFiles; 2]) -> Vec<Text> {
    let stops = models[STRONG].config.stops.clone();
    let settings =
        SamplerSettings { temperature: 1.0, top_p: 1.0, banned: vec![], stops: stops.clone() };
    let engine = |files: &ModelFiles| RaggedEngine::new(files.decoder().unwrap(), ROWS, 128);
    let mut engines = [&models[STRONG], &models[WEAK]].map(|files| engine(files).unwrap());
    let prompt = |i| draw(Split::HeldOut, 5, i, Style::Plain).question;
    let mut texts: Vec<Text> = (0..ROWS as u64)
        .map(|i| models[STRONG].tokenizer.encode(&prompt(i)).unwrap())
        .map(|tokens| Text { prompt: tokens.len(), tokens, drawn: vec![] })
        .collect();
    let (uniforms, coins) = (tiny::numbers(17, ROWS * LONGEST), tiny::numbers(18, ROWS * LONGEST));
    let mut live: Vec<usize> = (0..ROWS).collect();
    for round in 0..LONGEST {
        for author in [STRONG, WEAK] {
            let turn = |row: &usize| usize::from(coins[round * ROWS + row] > 0.2) == author;
            let rows: Vec<usize> = live.iter().copied().filter(turn).collect();
            let inputs = rows.iter().map(|row| {
                let tokens = &texts[*row].tokens[engines[author].len(*row)..];
                RowInput { row: *row, tokens, want: Want::Last }
            });
            let inputs: Vec<RowInput<'_>> = inputs.collect();
            let out = engines[author].step(&inputs).unwrap();
            let logits = out.logits().unwrap().to_vec2::<f32>().unwrap();
            for (wanted, logits) in out.wanted.iter().zip(logits) {
                let u = (uniforms[round * ROWS + wanted.row] + 1.0) / 2.0;
                let drawn = sample(&logits, &settings, u).unwrap();
                let text = &mut texts[wanted.row];
                text.tokens.push(drawn.token);
                let logits = logits.iter().map(|l| f64::from(*l)).collect();
                text.drawn.push(Drawn { author, logprob: f64::from(drawn.logprob), logits });
            }
        }
        live.retain(|row| !stops.contains(texts[*row].tokens.last().unwrap()));
        if live.is_empty() {
            break;
        }
    }
    texts
}

/// Logits before every token of `author` in the training forward, and the tokens' log-probabilities.
fn train(decoder: &Decoder, texts: &[Text], author: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let width = texts.iter().map(|t| t.tokens.len()).max().unwrap();
    let mut tokens = vec![0u32; ROWS * width];
    let (mut select, mut targets) = (Vec::new(), Vec::new());
    for (row, text) in texts.iter().enumerate() {
        let start = row * width;
        tokens[start..start + text.tokens.len()].copy_from_slice(&text.tokens);
        for (position, _) in text.by(author) {
            select.push((start + position - 1) as u32);
            targets.push(text.tokens[position]);
        }
    }
    let tokens = Tensor::from_vec(tokens, (ROWS, width), &Device::Cpu).unwrap();
    let select = Tensor::new(select, &Device::Cpu).unwrap();
    let targets = Tensor::new(targets, &Device::Cpu).unwrap();
    let logits = decoder.logits(&tokens, &select).unwrap();
    let own = logprobs(&logits, &targets, 1.0, &decoder.config().stops).unwrap();
    (tiny::rows(&logits), own.to_dtype(DType::F64).unwrap().to_vec1().unwrap())
}

/// The same logits from a prefill of each whole text.
fn prefill(decoder: &Decoder, texts: &[Text], author: usize) -> Vec<Vec<f64>> {
    let mut engine = RaggedEngine::new(decoder.clone(), 1, 128).unwrap();
    let of = |text: &Text| {
        engine.clear(0).unwrap();
        let all = tiny::feed(&mut engine, 0, &text.tokens);
        text.by(author).map(|(position, _)| all[position - 1].clone()).collect::<Vec<_>>()
    };
    texts.iter().flat_map(of).collect()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| f64::max(worst, (a - b).abs()))
}

#[test]
fn the_trained_miniature_agrees_with_its_own_samples() {
    let models = ["builtin:miniature-strong", "builtin:miniature-weak"].map(load);
    let texts = write(&models);
    let stops = &models[STRONG].config.stops;
    let ended = texts.iter().filter(|text| stops.contains(text.tokens.last().unwrap())).count();
    assert!(ended >= ROWS - 1, "{ended} of {ROWS} texts end: the models are not trained");
    for author in [STRONG, WEAK] {
        let decoder = models[author].decoder().unwrap();
        let own = || texts.iter().flat_map(|text| text.by(author).map(|(_, drawn)| drawn));
        let sampled: Vec<f64> = own().map(|drawn| drawn.logprob).collect();
        let decoded: Vec<Vec<f64>> = own().map(|drawn| drawn.logits.clone()).collect();
        assert!(sampled.len() > 40, "author {author} wrote {} tokens", sampled.len());
        let (logits, logprobs) = train(&decoder, &texts, author);
        let off = apart(&logprobs, &sampled);
        assert!(off < 1e-4, "author {author}: sampled tokens are {off:e} apart");
        let off = tiny::distance(&logits, &decoded);
        assert!(off < 1e-3, "author {author}: the vocabulary is {off:e} apart");
        let prefilled = prefill(&decoder, &texts, author);
        let off = tiny::distance(&logits, &prefilled);
        assert!(off < 1e-3, "author {author}: the vocabulary of a prefill is {off:e} apart");
        let position = |text: &Text| text.by(author).map(|(at, _)| text.tokens[at]).collect();
        let targets: Vec<Vec<u32>> = texts.iter().map(position).collect();
        let scored: Vec<f64> = prefilled
            .iter()
            .zip(targets.concat())
            .map(|(logits, token)| tiny::log_softmax(logits)[token as usize])
            .collect();
        let off = apart(&scored, &sampled);
        assert!(off < 1e-4, "author {author}: a prefill scores sampled tokens {off:e} apart");
    }
}
