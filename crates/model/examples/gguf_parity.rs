//! One GGUF file beside llama.cpp: reads what `tests/parity/llama_cpp.py` wrote of it, does the same
//! and prints where the two part. It decides nothing; the figures are for `docs/performance.md`.
#![allow(clippy::print_stdout, reason = "a report for a person")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::BufRead;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use model::{ModelSource, Placement, RaggedEngine, RowInput, Tokenizer, Want};
use serde::Deserialize;

const ROWS: usize = 8;
const CAPACITY: usize = 1024;

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Record {
    Model { ends: Vec<u32> },
    Nll { prompt: Vec<u32>, text: Vec<u32>, nll: Vec<f64>, pieces: Vec<f64> },
    Greedy { prompt: Vec<u32>, runs: Vec<Greedy> },
    Speed { rows: usize, prompt: Vec<u32>, steps: usize, threads: usize, rate: f64 },
    Tokens { text: String, ids: Vec<u32> },
}

#[derive(Deserialize)]
struct Greedy {
    /// How llama.cpp read the prompt.
    way: String,
    written: Vec<u32>,
    margins: Vec<f64>,
}

#[derive(Default)]
struct Report {
    /// By how llama.cpp read the prompts: texts that equal ours, and those that equal its own of the
    /// first way.
    greedy: BTreeMap<String, (usize, usize)>,
    prompts: usize,
    nll: [f64; 3],
    tokens: usize,
    ours_apart: Apart,
    oracle_apart: Apart,
    texts: (usize, usize),
    rates: BTreeMap<usize, (f64, f64)>,
}

/// Of single log-probabilities.
#[derive(Default)]
struct Apart {
    largest: f64,
    sum: f64,
}

impl Apart {
    fn take(&mut self, a: f64, b: f64) {
        self.largest = self.largest.max((a - b).abs());
        self.sum += (a - b).abs();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(oracle)) = (args.next(), args.next()) else {
        return Err("give a .gguf file, what tests/parity/llama_cpp.py wrote of it and, to \
                    dequantise the weights, `dense`"
            .into());
    };
    let start = Instant::now();
    let placement = Placement::cpu(DType::F32);
    let source = ModelSource::parse(&file)?;
    let (decoder, tokenizer) = match args.next().as_deref() {
        Some("dense") => {
            let files = source.load(0, &placement)?;
            (files.decoder()?, files.tokenizer)
        }
        _ => source.load_frozen(0, &placement)?,
    };
    let mut engine = RaggedEngine::new(decoder.clone(), ROWS, CAPACITY)?;
    println!("loaded in {:.1} s; {}", start.elapsed().as_secs_f64(), memory()?);
    let stops = decoder.config().stops.clone();
    drop(decoder);
    let mut report = Report::default();
    for line in std::io::BufReader::new(fs::File::open(oracle)?).lines() {
        match serde_json::from_str(&line?)? {
            Record::Model { ends } => println!("ends: ours {stops:?}, llama.cpp {ends:?}"),
            record => report.take(&mut engine, &tokenizer, record)?,
        }
    }
    report.print();
    println!("{}", memory()?);
    Ok(())
}

impl Report {
    fn take(
        &mut self,
        engine: &mut RaggedEngine,
        tokenizer: &Tokenizer,
        record: Record,
    ) -> Result<(), Box<dyn Error>> {
        match record {
            Record::Model { .. } => {}
            Record::Tokens { text, ids } => {
                let ours = tokenizer.encode(&text)?;
                self.texts.1 += 1;
                if ours != ids {
                    self.texts.0 += 1;
                    println!("tokens differ: {text:?}\n  ours {ours:?}\n  theirs {ids:?}");
                }
            }
            Record::Nll { prompt, text, nll, pieces } => {
                let ours = own_nll(engine, &prompt, &text)?;
                for ((ours, &whole), &pieces) in ours.into_iter().zip(&nll).zip(&pieces) {
                    self.ours_apart.take(ours, whole);
                    self.oracle_apart.take(pieces, whole);
                    for (sum, nll) in self.nll.iter_mut().zip([ours, whole, pieces]) {
                        *sum += nll;
                    }
                    self.tokens += 1;
                }
            }
            Record::Greedy { prompt, runs } => self.greedy(engine, &prompt, &runs)?,
            Record::Speed { rows, prompt, steps, threads, rate } => {
                println!("speed at {rows} rows, {threads} threads for llama.cpp");
                self.rates.insert(rows, (speed(engine, rows, &prompt, steps)?, rate));
            }
        }
        Ok(())
    }

    fn greedy(
        &mut self,
        engine: &mut RaggedEngine,
        prompt: &[u32],
        runs: &[Greedy],
    ) -> Result<(), Box<dyn Error>> {
        self.prompts += 1;
        let whole = runs.first().ok_or("no greedy text")?;
        let ours = greedy(engine, prompt, whole.written.len())?;
        let parted = |other: &[u32]| other.iter().zip(&whole.written).position(|(a, b)| a != b);
        if let Some(at) = parted(&ours) {
            println!(
                "greedy {}: parts at token {at}, {} against {}, where llama.cpp's best two logits \
                 are {:.4} apart",
                self.prompts, ours[at], whole.written[at], whole.margins[at]
            );
        }
        for run in runs {
            let equal = self.greedy.entry(run.way.clone()).or_default();
            equal.0 += usize::from(run.written == ours);
            equal.1 += usize::from(run.written == whole.written);
        }
        Ok(())
    }

    fn print(&self) {
        if self.tokens > 0 {
            let n = self.tokens as f64;
            let [ours, whole, pieces] = self.nll.map(|sum| (sum / n).exp());
            let print = |who, perplexity: f64, apart: &Apart| {
                println!(
                    "perplexity of {who}, {} tokens: {perplexity:.4} ({:+.3}%); one log-probability \
                     differs by {:.4} on average, {:.4} at most",
                    self.tokens,
                    (perplexity / whole - 1.0) * 100.0,
                    apart.sum / n,
                    apart.largest
                );
            };
            println!("llama.cpp, whole texts at once: perplexity {whole:.4}");
            print("ours", ours, &self.ours_apart);
            print("llama.cpp in pieces of 8 tokens", pieces, &self.oracle_apart);
        }
        for (way, (ours, itself)) in &self.greedy {
            println!(
                "greedy texts, prompts read {way}: {ours} of {} equal ours, {itself} llama.cpp's first",
                self.prompts
            );
        }
        println!("tokenised texts that differ: {} of {}", self.texts.0, self.texts.1);
        for (rows, (ours, theirs)) in &self.rates {
            println!(
                "decode at batch {rows}: ours {ours:.1} tokens/s, llama.cpp {theirs:.1} ({:.2}x)",
                ours / theirs
            );
        }
    }
}

fn best(logits: &Tensor) -> candle_core::Result<Vec<u32>> {
    logits.argmax(1)?.to_vec1()
}

fn greedy(engine: &mut RaggedEngine, prompt: &[u32], n: usize) -> Result<Vec<u32>, Box<dyn Error>> {
    engine.clear(0)?;
    let mut logits =
        engine.step(&[RowInput { row: 0, tokens: prompt, want: Want::Last }])?.logits()?;
    let mut written = Vec::with_capacity(n);
    while written.len() < n {
        let token = best(&logits)?[0];
        written.push(token);
        logits =
            engine.step(&[RowInput { row: 0, tokens: &[token], want: Want::Last }])?.logits()?;
    }
    Ok(written)
}

fn own_nll(
    engine: &mut RaggedEngine,
    prompt: &[u32],
    text: &[u32],
) -> Result<Vec<f64>, Box<dyn Error>> {
    engine.clear(0)?;
    let (all_but_last, last) = prompt.split_at(prompt.len() - 1);
    engine.step(&[RowInput { row: 0, tokens: all_but_last, want: Want::Nothing }])?;
    let tokens = [last, &text[..text.len() - 1]].concat();
    let logits = engine.step(&[RowInput { row: 0, tokens: &tokens, want: Want::All }])?.logits()?;
    let logits = logits.to_dtype(DType::F64)?;
    let targets = Tensor::new(text, &Device::Cpu)?;
    let norm = logits.log_sum_exp(1)?;
    let own = logits.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
    Ok((norm - own)?.to_vec1()?)
}

/// Tokens per second of all rows together, after a prompt that is not counted.
fn speed(
    engine: &mut RaggedEngine,
    rows: usize,
    prompt: &[u32],
    steps: usize,
) -> Result<f64, Box<dyn Error>> {
    for row in 0..rows {
        engine.clear(row)?;
        engine.step(&[RowInput { row, tokens: prompt, want: Want::Nothing }])?;
    }
    let mut tokens = vec![prompt[prompt.len() - 1]; rows];
    let start = Instant::now();
    for _ in 0..steps {
        let inputs: Vec<RowInput<'_>> = tokens
            .iter()
            .enumerate()
            .map(|(row, token)| RowInput {
                row,
                tokens: std::slice::from_ref(token),
                want: Want::Last,
            })
            .collect();
        tokens = best(&engine.step(&inputs)?.logits()?)?;
    }
    Ok((rows * steps) as f64 / start.elapsed().as_secs_f64())
}

fn memory() -> Result<String, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = |key| status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    Ok(format!("{}, {}", line("VmRSS"), line("VmHWM")))
}
