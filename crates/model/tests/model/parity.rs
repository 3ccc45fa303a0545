//! The checkpoints of `tests/parity`, which transformers made and computed: the same logits, the
//! same greedy tokens. No Python is needed here.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use model::{
    Decoder, ModelFiles, ModelSource, Placement, RaggedEngine, RowInput, Want, from_safetensors,
    to_safetensors, write_directory,
};

use crate::tiny;

const CASES: [&str; 8] = [
    "gemma3",
    "gemma3-that-sees",
    "gemma3-untied",
    "llama",
    "llama-scaled-tied-biased",
    "qwen2-tied-padded",
    "qwen2-window",
    "qwen3",
];
const TOLERANCE: f64 = 1e-4;

#[derive(serde::Deserialize)]
struct Expected {
    texts: Vec<Vec<u32>>,
    /// After each of them.
    greedy: Vec<Vec<u32>>,
    /// Of every position of every text, one text after the other.
    #[serde(skip)]
    logits: Vec<Vec<f64>>,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden")
}

fn load(dir: &Path) -> ModelFiles {
    let source = ModelSource::parse(dir.to_str().unwrap()).unwrap();
    source.load(0, &Placement::cpu(DType::F32)).unwrap()
}

fn expected(dir: &Path) -> Expected {
    let text = fs::read_to_string(dir.join("expected.json")).unwrap();
    let bytes = fs::read(dir.join("expected.safetensors")).unwrap();
    let tensors = from_safetensors(&bytes, "expected", &Placement::cpu(DType::F32)).unwrap();
    Expected { logits: tiny::rows(&tensors["logits"]), ..serde_json::from_str(&text).unwrap() }
}

/// Largest difference, logit by logit.
fn apart(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.concat().iter().zip(b.concat()).fold(0.0, |worst, (a, b)| f64::max(worst, (a - b).abs()))
}

/// From one batch that is padded on the right.
fn trained(decoder: &Decoder, texts: &[Vec<u32>]) -> Vec<Vec<f64>> {
    let width = texts.iter().map(Vec::len).max().unwrap();
    let padded: Vec<Vec<u32>> =
        texts.iter().map(|text| [text.clone(), vec![0; width - text.len()]].concat()).collect();
    let padded: Vec<&[u32]> = padded.iter().map(Vec::as_slice).collect();
    let select: Vec<u32> = (0..texts.len())
        .flat_map(|row| (0..texts[row].len()).map(move |at| (row * width + at) as u32))
        .collect();
    let select = Tensor::new(select, &Device::Cpu).unwrap();
    tiny::rows(&decoder.logits(&tiny::batch(&padded), &select).unwrap())
}

/// All rows in the same steps, the longer ones over more of them.
fn decoded(engine: &mut RaggedEngine, texts: &[Vec<u32>]) -> Vec<Vec<f64>> {
    let chunk = [5, 1, 4];
    let mut found = vec![Vec::new(); texts.len()];
    while found.iter().zip(texts).any(|(found, text)| found.len() < text.len()) {
        let part = |row: usize| {
            let tokens = &texts[row][found[row].len()..];
            let tokens = &tokens[..tokens.len().min(chunk[row])];
            (!tokens.is_empty()).then_some(RowInput { row, tokens, want: Want::All })
        };
        let inputs: Vec<RowInput<'_>> = (0..texts.len()).filter_map(part).collect();
        let out = engine.step(&inputs).unwrap();
        for (wanted, logits) in out.wanted.iter().zip(tiny::rows(&out.logits().unwrap())) {
            found[wanted.row].push(logits);
        }
    }
    found.concat()
}

/// Goes on after what [`decoded`] read, all rows at once.
fn greedy(engine: &mut RaggedEngine, texts: &[Vec<u32>], last: &[&[f64]]) -> Vec<Vec<u32>> {
    let best = |logits: &[f64]| {
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        best.unwrap() as u32
    };
    let mut written: Vec<Vec<u32>> = last.iter().map(|logits| vec![best(logits)]).collect();
    while written[0].len() < 64 {
        let inputs: Vec<RowInput<'_>> = (0..texts.len())
            .map(|row| {
                let tokens = &written[row][written[row].len() - 1..];
                RowInput { row, tokens, want: Want::Last }
            })
            .collect();
        let logits = tiny::rows(&engine.step(&inputs).unwrap().logits().unwrap());
        written.iter_mut().zip(logits).for_each(|(row, logits)| row.push(best(&logits)));
    }
    written
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for case in CASES {
        let dir = golden().join(case);
        let Expected { texts, greedy: tokens, logits } = expected(&dir);
        let decoder = load(&dir).decoder().unwrap();
        let off = apart(&trained(&decoder, &texts), &logits);
        assert!(off < TOLERANCE, "{case}: the training forward is {off:e} apart");
        let mut engine = RaggedEngine::new(decoder.clone(), texts.len(), 96).unwrap();
        let own = decoded(&mut engine, &texts);
        let off = apart(&own, &logits);
        assert!(off < TOLERANCE, "{case}: ragged decode is {off:e} apart");
        let ends = texts.iter().scan(0, |end, text| {
            *end += text.len();
            Some(own[*end - 1].as_slice())
        });
        let ends: Vec<&[f64]> = ends.collect();
        assert_eq!(greedy(&mut engine, &texts, &ends), tokens, "{case}");
    }
}

#[test]
fn what_is_written_again_computes_the_same() {
    for case in CASES {
        let dir = golden().join(case);
        let files = load(&dir);
        let copy = tempfile::tempdir().unwrap();
        let bytes = to_safetensors(&files.tensors).unwrap();
        write_directory(copy.path(), &files.texts().unwrap(), &bytes).unwrap();
        let again = load(copy.path());
        assert_eq!((&again.config, &again.extras), (&files.config, &files.extras), "{case}");
        assert_eq!(again.config.stops, [2, 3], "{case}");
        let of = |files: &ModelFiles| trained(&files.decoder().unwrap(), &expected(&dir).texts);
        assert_eq!(apart(&of(&again), &of(&files)), 0.0, "{case}");
    }
}

#[test]
fn every_golden_checkpoint_is_checked() {
    let entries = fs::read_dir(golden()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, CASES);
}
