//! `coordinator data get`: a published data set as the JSON lines that `data.path` names.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

use super::client::{Repository, RepositoryKind};
use super::download::attempts;
use super::model_get::{Fetched, client, policy};
use super::parquet_rows::text_pairs;
use crate::cli::{DataArgs, DataSet};
use crate::output::say;
use crate::source::read_problems;
use crate::tiny::claim;

const GSM8K: &str = "openai/gsm8k";
/// Name of a split and how many problems it was published with.
const SPLITS: [(&str, usize); 2] = [("train", 7_473), ("test", 1_319)];

#[derive(Serialize)]
struct Line<'a> {
    question: &'a str,
    answer: &'a str,
}

/// Returns the exit code. Each file is written whole, after it was counted, or not at all.
///
/// # Errors
/// What cannot be fetched, or is not the data set as it was published.
pub fn data_get(args: &DataArgs) -> anyhow::Result<u8> {
    let DataSet::Gsm8k = args.set;
    claim(&args.out)?;
    let splits = match &args.url {
        Some(url) => from_address(args, url)?,
        None => from_hub(args)?,
    };
    for ((split, expected), text) in SPLITS.into_iter().zip(splits) {
        let partial = args.out.join(format!(".{split}.partial"));
        fs::write(&partial, text).with_context(|| format!("cannot write {}", partial.display()))?;
        let kept = keep(&partial, &args.out.join(format!("{split}.jsonl")), expected);
        if kept.is_err() {
            let _ = fs::remove_file(&partial);
        }
        kept.with_context(|| format!("the {split} split"))?;
    }
    let out = std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone());
    let counts = SPLITS.map(|(split, count)| format!("{count} {split}"));
    eprintln!("{} problems; put this into data.path:", counts.join(" and "));
    say(&out.display().to_string());
    Ok(0)
}

/// Every line must be a problem, and there must be as many as were published.
fn keep(partial: &Path, path: &Path, expected: usize) -> anyhow::Result<()> {
    let found = read_problems(partial)?.len();
    if found != expected {
        bail!("has {found} problems where {expected} were published: nothing was kept of it");
    }
    fs::rename(partial, path).with_context(|| format!("cannot write {}", path.display()))
}

/// `URL/train.jsonl` and `URL/test.jsonl`.
fn from_address(args: &DataArgs, url: &str) -> anyhow::Result<[Vec<u8>; 2]> {
    let (client, policy) = (client(&args.fetch)?, policy(&args.fetch));
    let fetch = |split: &str| {
        let address = format!("{}/{split}.jsonl", url.trim_end_matches('/'));
        attempts(policy, |_| client.bytes(&address))
    };
    Ok([fetch(SPLITS[0].0)?, fetch(SPLITS[1].0)?])
}

/// The hub's parquet files of the `main` configuration.
fn from_hub(args: &DataArgs) -> anyhow::Result<[Vec<u8>; 2]> {
    let (kind, revision) = (RepositoryKind::Dataset, args.fetch.revision.clone());
    let repository = Repository { kind, name: GSM8K.to_owned(), revision };
    let fetched = Fetched::open(&repository, &args.fetch)?;
    let convert = |split: &str| {
        let start = format!("main/{split}-");
        let is_part = |file: &&String| file.starts_with(&start) && file.ends_with(".parquet");
        let mut parts: Vec<&String> = fetched.contents.files.iter().filter(is_part).collect();
        parts.sort();
        if parts.is_empty() {
            bail!("{GSM8K} has no files {start}*.parquet at this revision: use --url instead");
        }
        let mut text = Vec::new();
        for part in parts {
            for (question, answer) in text_pairs(&fetched.file(part)?, ("question", "answer"))? {
                serde_json::to_writer(&mut text, &Line { question: &question, answer: &answer })?;
                text.push(b'\n');
            }
        }
        Ok(text)
    };
    Ok([convert(SPLITS[0].0)?, convert(SPLITS[1].0)?])
}
