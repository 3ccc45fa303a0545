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

/// Copied as they are, where the checkpoint or the model that the run started from has them.
const COPIED: [&str; 9] = [
    TOKENIZER,
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
    let sources = [Some(checkpoint.path.clone()), start_of(&settings)];
    let copied = copy(&sources.into_iter().flatten().collect::<Vec<_>>(), &args.out)?;
    if !copied.contains(&GENERATION) {
        write_json(&args.out.join(GENERATION), &generation(&config))?;
    }
    if !copied.contains(&TOKENIZER_CONFIG) {
        let plain = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        write_json(&args.out.join(TOKENIZER_CONFIG), &plain)?;
    }
    write_json(&args.out.join(CONFIG), &with_dtype(config, args.dtype))?;
    say(&report(args, &checkpoint, &written));
    Ok(0)
}

/// The run's own, whatever the environment says today.
fn settings_of(run_dir: &RunDir) -> anyhow::Result<Settings> {
    let file = Some(run_dir.config().to_string_lossy().into_owned());
    Ok(Layers { file, set: Vec::new(), environment: Some(Vec::new()) }.load()?)
}

/// The directory of the model that the run started from, where it is one and still there.
fn start_of(settings: &Settings) -> Option<PathBuf> {
    Some(PathBuf::from(&settings.strong.model)).filter(|path| path.is_dir())
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

fn report(args: &ExportArgs, checkpoint: &CheckpointDir, written: &Written) -> String {
    let (out, dtype) = (args.out.display(), args.dtype.name());
    let (step, count) = (checkpoint.step, written.files.len());
    let files = if count == 1 { "file" } else { "files" };
    let outtype = dtype.replace("bfloat", "bf").replace("float", "f");
    format!(
        "step {step}: {} tensors, {:.1} MB as {dtype} in {count} {files}, written to {out}\n\
         evaluate it:  lm_eval --model hf --model_args pretrained={out},dtype={dtype} --tasks gsm8k\n\
         serve it:     vllm serve {out} --dtype {dtype}\n\
         for llama.cpp: python convert_hf_to_gguf.py {out} --outtype {outtype} --outfile {out}.gguf\n\
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
