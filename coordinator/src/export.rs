//! `coordinator model export`: a run's checkpoint as a directory that the libraries of the field
//! load. Weights are bytes to it; converting them is `weights`' and `convert`'s.

mod convert;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value, json};
use settings::{Layers, Settings};

use crate::cli::{ExportArgs, ExportDtype};
use crate::output::say;
use crate::run_dir::{CheckpointDir, RunDir};
use crate::stored;
use crate::tiny::claim;
use weights::{Weights, Written};

/// As `transformers` cuts: 5 GB a file.
const SHARD_BYTES: u64 = 5_000_000_000;
const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What llama.cpp's converter reads of a Gemma's tokenizer.
const SENTENCE_PIECE: &str = "tokenizer.model";

/// Runs that began with another run's checkpoint, one after the other, to the model that came first.
const STARTS_MAX: usize = 16;

/// Copied as they are, where the checkpoint or a model that the run started from has them.
const COPIED: [&str; 10] = [
    TOKENIZER,
    SENTENCE_PIECE,
    TOKENIZER_CONFIG,
    GENERATION,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
];

/// Returns the exit code. `config.json` is written last: a directory without it is unfinished.
///
/// # Errors
/// No such run or checkpoint, an `--out` that holds something, weights that cannot be written so.
pub fn export(args: &ExportArgs) -> anyhow::Result<u8> {
    let run_dir = RunDir::open(&args.run)?;
    let settings = settings_of(&run_dir)?;
    let checkpoint = stored::checkpoint(&run_dir, args.checkpoint, &settings)?;
    let mut weights = Weights::open(&checkpoint.weights())?;
    let config = read_json(&checkpoint.path.join(CONFIG))?;
    claim(&args.out)?;
    let written = weights.write(&args.out, args.dtype, SHARD_BYTES)?;
    let mut sources = vec![checkpoint.path.clone()];
    sources.extend(starts_of(&settings));
    let copied = copy(&sources, &args.out)?;
    if !copied.contains(&GENERATION) {
        write_json(&args.out.join(GENERATION), &generation(&config))?;
    }
    if !copied.contains(&TOKENIZER_CONFIG) {
        let plain = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        write_json(&args.out.join(TOKENIZER_CONFIG), &plain)?;
    }
    let gemma = config["model_type"].as_str().is_some_and(|family| family.starts_with("gemma"));
    let convertible = !gemma || copied.contains(&SENTENCE_PIECE);
    write_json(&args.out.join(CONFIG), &with_dtype(config, args.dtype))?;
    say(&report(args, &checkpoint, &written, convertible));
    Ok(0)
}

/// The run's own, whatever the environment says today.
fn settings_of(run_dir: &RunDir) -> anyhow::Result<Settings> {
    let file = Some(run_dir.config().to_string_lossy().into_owned());
    Ok(Layers { file, set: Vec::new(), environment: Some(Vec::new()) }.load()?)
}

/// The directories of the models that the run started from, where they are still there: the last of those
/// that were checkpoints themselves first.
fn starts_of(settings: &Settings) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = Some(settings.strong.model.clone());
    while let Some(name) = next.take().filter(|_| found.len() < STARTS_MAX) {
        let path = PathBuf::from(name);
        let checkpoint = CheckpointDir::at(&path);
        let run = checkpoint.as_ref().and_then(|checkpoint| RunDir::open(checkpoint.run()?).ok());
        next = run.and_then(|run| settings_of(&run).ok()).map(|settings| settings.strong.model);
        found.extend(Some(path).filter(|path| path.is_dir()));
    }
    found
}

/// Copies each file from the first directory that has it.
fn copy(sources: &[PathBuf], out: &Path) -> anyhow::Result<Vec<&'static str>> {
    let mut copied = Vec::new();
    for name in COPIED {
        let found = sources.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        if let Some(path) = found {
            fs::copy(&path, out.join(name))
                .with_context(|| format!("cannot copy {} to {}", path.display(), out.display()))?;
            copied.push(name);
        }
    }
    Ok(copied)
}

/// What `config.json` says of where texts begin and end, as a generation configuration.
fn generation(config: &Value) -> Value {
    let known = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let entries = known.iter().filter_map(|key| {
        let value = config.get(*key).filter(|value| !value.is_null())?;
        Some(((*key).to_owned(), value.clone()))
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Under the key that is there, which changed its name in version 5 of `transformers`; both
/// versions read the older one.
fn with_dtype(mut config: Value, dtype: ExportDtype) -> Value {
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = json!(dtype.name());
    config
}

fn report(
    args: &ExportArgs,
    checkpoint: &CheckpointDir,
    written: &Written,
    convertible: bool,
) -> String {
    let (out, dtype) = (args.out.display(), args.dtype.name());
    let (step, count) = (checkpoint.step, written.files.len());
    let files = if count == 1 { "file" } else { "files" };
    let outtype = dtype.replace("bfloat", "bf").replace("float", "f");
    let first = match convertible {
        true => String::new(),
        false => format!(
            "for llama.cpp: first copy {SENTENCE_PIECE} of the model that it began as to {out}\n"
        ),
    };
    format!(
        "step {step}: {} tensors, {:.1} MB as {dtype} in {count} {files}, written to {out}\n\
         evaluate it:  lm_eval --model hf --model_args pretrained={out},dtype={dtype} --tasks gsm8k\n\
         serve it:     vllm serve {out} --dtype {dtype}\n\
         {first}for llama.cpp: python convert_hf_to_gguf.py {out} --outtype {outtype} --outfile {out}.gguf\n\
         \x20              llama-server -m {out}.gguf",
        written.tensors,
        written.bytes as f64 / 1e6
    )
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn write_json(path: &Path, value: &Value) -> anyhow::Result<()> {
    fs::write(path, format!("{value:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::CheckpointChoice;

    /// A run with one checkpoint whose weights are a single tensor.
    fn run(root: &Path) -> ExportArgs {
        let start = root.join("start");
        let run = root.join("run");
        let step = run.join("checkpoints/step-000003");
        fs::create_dir_all(&step).unwrap();
        fs::create_dir_all(&start).unwrap();
        let mut settings = settings::Settings::default();
        settings.strong.model = start.to_string_lossy().into_owned();
        fs::write(run.join("config.toml"), settings.to_toml()).unwrap();
        fs::write(step.join("state.json"), "{}").unwrap();
        fs::write(
            step.join(CONFIG),
            r#"{"model_type": "llama", "eos_token_id": 2, "bos_token_id": null}"#,
        )
        .unwrap();
        fs::write(step.join(TOKENIZER), "the checkpoint's").unwrap();
        let specs = [miniature::TensorSpec::new("w", &[4], 1.5, 0.0)];
        fs::write(
            step.join("model.safetensors"),
            miniature::random_safetensors(&specs, 0).unwrap(),
        )
        .unwrap();
        fs::write(step.join("optimizer.safetensors"), "moments").unwrap();
        fs::write(start.join(TOKENIZER), "the start's").unwrap();
        fs::write(start.join("chat_template.jinja"), "{{ messages }}").unwrap();
        let (checkpoint, out) = (CheckpointChoice::Latest, root.join("out"));
        ExportArgs { run, checkpoint, dtype: ExportDtype::Bf16, out }
    }

    fn text(args: &ExportArgs, name: &str) -> String {
        fs::read_to_string(args.out.join(name)).unwrap()
    }

    #[test]
    fn the_directory_has_all_that_a_model_needs_and_nothing_of_the_run() {
        let root = tempfile::tempdir().unwrap();
        let args = run(root.path());
        assert_eq!(export(&args).unwrap(), 0);
        let names = fs::read_dir(&args.out).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        let expected = [
            "chat_template.jinja",
            CONFIG,
            GENERATION,
            "model.safetensors",
            TOKENIZER,
            TOKENIZER_CONFIG,
        ];
        assert_eq!(names, expected);
        assert_eq!(text(&args, TOKENIZER), "the checkpoint's");
        assert_eq!(text(&args, "chat_template.jinja"), "{{ messages }}");
        let config: Value = serde_json::from_str(&text(&args, CONFIG)).unwrap();
        assert_eq!(
            (&config["torch_dtype"], &config["eos_token_id"]),
            (&json!("bfloat16"), &json!(2))
        );
        let generation: Value = serde_json::from_str(&text(&args, GENERATION)).unwrap();
        assert_eq!(generation, json!({ "eos_token_id": 2 }));
        let bytes = fs::read(args.out.join("model.safetensors")).unwrap();
        assert_eq!(bytes[bytes.len() - 8..], [0xc0, 0x3f, 0xc0, 0x3f, 0xc0, 0x3f, 0xc0, 0x3f]);
    }

    #[test]
    fn files_come_from_the_model_that_the_first_of_several_runs_began_with() {
        let root = tempfile::tempdir().unwrap();
        let first = run(root.path());
        fs::write(root.path().join("start").join(SENTENCE_PIECE), [0xff, 0x00]).unwrap();
        let next = root.path().join("next");
        fs::create_dir(&next).unwrap();
        let mut later = run(&next);
        let mut settings = settings::Settings::default();
        let checkpoint = first.run.join("checkpoints/step-000003");
        settings.strong.model = checkpoint.to_string_lossy().into_owned();
        fs::write(later.run.join("config.toml"), settings.to_toml()).unwrap();
        later.out = root.path().join("out");
        assert_eq!(export(&later).unwrap(), 0);
        assert_eq!(fs::read(later.out.join(SENTENCE_PIECE)).unwrap(), [0xff, 0x00]);
        assert_eq!(text(&later, "chat_template.jinja"), "{{ messages }}");
        assert_eq!(text(&later, TOKENIZER), "the checkpoint's");
    }

    #[test]
    fn a_gemma_without_its_sentence_pieces_is_not_said_to_be_convertible() {
        let root = tempfile::tempdir().unwrap();
        let args = run(root.path());
        let run_dir = RunDir::open(&args.run).unwrap();
        let checkpoint = run_dir.checkpoint(CheckpointChoice::Latest).unwrap();
        let written = Written { tensors: 1, bytes: 2, files: vec!["model.safetensors".to_owned()] };
        let missing = report(&args, &checkpoint, &written, false);
        assert!(missing.contains("first copy tokenizer.model of the model"), "{missing}");
        assert!(!report(&args, &checkpoint, &written, true).contains("first copy"));
    }

    #[test]
    fn a_directory_that_holds_something_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let args = run(root.path());
        fs::create_dir(&args.out).unwrap();
        fs::write(args.out.join("mine"), "mine").unwrap();
        let text = export(&args).unwrap_err().to_string();
        assert!(text.contains("is not empty") && text.contains("choose another"), "{text}");
        assert_eq!(fs::read_dir(&args.out).unwrap().count(), 1);
    }

    #[test]
    fn the_newer_name_of_the_type_is_kept() {
        let config = with_dtype(json!({ "dtype": "float32" }), ExportDtype::F16);
        assert_eq!(config, json!({ "dtype": "float16" }));
    }
}
