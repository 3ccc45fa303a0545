//! `coordinator model get`: which files of a repository make a model, and where they end up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::RetryPolicy;
use serde_json::Value;

use super::cache::{Cached, relative};
use super::client::{Client, Contents, Repository, RepositoryKind};
use super::download::{Downloads, attempts};
use super::error::FetchError;
use super::place::Place;
use crate::cli::{FetchArgs, GetArgs};
use crate::output::say;
use crate::tiny::claim;

const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";

/// Fetched where the repository has them; without the first two there is no model.
const WANTED: [&str; 10] = [
    CONFIG,
    "tokenizer.json",
    // Nothing here reads it, but llama.cpp's converter does after an export.
    "tokenizer.model",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "LICENSE",
];
const NEEDED: usize = 2;

/// No delay between two tries is longer.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Names of files that an error lists.
const LISTED: usize = 12;

/// Returns the exit code; standard output gets what to put into `strong.model`.
///
/// # Errors
/// What `FetchError` lists, a repository that holds no model, an `--out` that holds something.
pub fn model_get(args: &GetArgs) -> anyhow::Result<u8> {
    let name = args.repository.trim_matches('/').to_owned();
    if name.split('/').count() != 2 || relative(&name).is_err() {
        bail!("`{}` names no repository: write OWNER/NAME", args.repository);
    }
    let (kind, revision) = (RepositoryKind::Model, args.fetch.revision.clone());
    let repository = Repository { kind, name, revision };
    if let Some(out) = &args.out {
        claim(out)?;
    }
    let fetched = Fetched::open(&repository, &args.fetch)?;
    let mut paths = Vec::new();
    for file in fetched.wanted(args.file.as_deref())? {
        paths.push((file.clone(), fetched.file(&file)?));
    }
    if args.file.is_none() && fetched.has(INDEX) && !fetched.has(WEIGHTS) {
        let index = paths.iter().find(|(file, _)| file == INDEX).map(|(_, path)| path);
        for file in shards(index.context("the index is among the files wanted")?)? {
            paths.push((file.clone(), fetched.file(&file)?));
        }
    }
    let mut model = fetched.snapshot()?;
    if let Some(out) = &args.out {
        for (file, path) in &paths {
            copy(path, &out.join(relative(file)?))?;
        }
        model = std::path::absolute(out).unwrap_or_else(|_| out.clone());
    }
    if let Some(file) = &args.file {
        model.push(file);
    }
    eprintln!("commit {}; put this into strong.model or weak.model:", fetched.contents.commit);
    say(&model.display().to_string());
    Ok(0)
}

/// One revision of a repository, and how its files are fetched.
pub(super) struct Fetched<'a> {
    repository: &'a Repository,
    client: Client,
    pub(super) contents: Contents,
    policy: RetryPolicy,
}

impl<'a> Fetched<'a> {
    /// Asks the hub what there is.
    ///
    /// # Errors
    /// No such repository or revision, no access, no connection.
    pub(super) fn open(repository: &'a Repository, args: &FetchArgs) -> Result<Self, FetchError> {
        let policy = policy(args);
        let client = client(args)?;
        let contents = attempts(policy, |_| client.contents(repository))?;
        let cached = Cached::new(&client.place().cache, repository);
        cached.remember(&repository.revision, &contents.commit)?;
        Ok(Self { repository, client, contents, policy })
    }

    /// # Errors
    /// Whatever keeps the file from being here, whole and checked.
    pub(super) fn file(&self, file: &str) -> Result<PathBuf, FetchError> {
        if !self.has(file) {
            return Err(self.lacks(file));
        }
        let downloads = Downloads {
            client: &self.client,
            repository: self.repository,
            commit: &self.contents.commit,
            policy: self.policy,
        };
        downloads.file(file)
    }

    fn has(&self, file: &str) -> bool {
        self.contents.files.iter().any(|known| known == file)
    }

    fn lacks(&self, file: &str) -> FetchError {
        let files = &self.contents.files;
        let mut there = files.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        if files.len() > LISTED {
            there.push_str(&format!(" and {} more", files.len() - LISTED));
        }
        let (repo, file) = (self.repository.name.clone(), file.to_owned());
        FetchError::NoFile { repo, file, there }
    }

    fn snapshot(&self) -> Result<PathBuf, FetchError> {
        let cache = &self.client.place().cache;
        Cached::new(cache, self.repository).snapshot(&self.contents.commit)
    }

    /// The files of a model but its shards, or the one that was asked for.
    fn wanted(&self, one: Option<&str>) -> anyhow::Result<Vec<String>> {
        if let Some(file) = one {
            return Ok(vec![file.to_owned()]);
        }
        let files = &self.contents.files;
        let packed: Vec<&str> =
            files.iter().map(String::as_str).filter(|file| file.ends_with(".gguf")).collect();
        let weights = [WEIGHTS, INDEX].into_iter().find(|file| self.has(file));
        let name = &self.repository.name;
        let Some(weights) = weights else {
            if !packed.is_empty() {
                bail!("{name} holds GGUF files: choose one with --file, of {}", packed.join(", "));
            }
            bail!(
                "{name} has no safetensors: choose a repository with {WEIGHTS}; this one has {}",
                files.join(", ")
            );
        };
        if let Some(missing) = WANTED[..NEEDED].iter().find(|file| !self.has(file)) {
            return Err(self.lacks(missing).into());
        }
        let wanted = WANTED.into_iter().chain([weights]).filter(|file| self.has(file));
        Ok(wanted.map(str::to_owned).collect())
    }
}

/// # Errors
/// An environment that names no hub or cache.
pub(super) fn client(args: &FetchArgs) -> Result<Client, FetchError> {
    let place = Place::new(|name| std::env::var(name).ok())?;
    Client::new(place, Duration::from_millis(args.silence_ms))
}

pub(super) fn policy(args: &FetchArgs) -> RetryPolicy {
    RetryPolicy {
        attempts: args.retries.saturating_add(1),
        first_delay: Duration::from_millis(args.retry_wait_ms),
        delay_max: RETRY_WAIT_MAX,
        ..RetryPolicy::default()
    }
}

/// The files that an index names, each once.
fn shards(index: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(index).with_context(|| format!("{}", index.display()))?;
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is no index of weights", index.display()))?;
    let map = value["weight_map"].as_object();
    let map = map.with_context(|| format!("{} has no weight_map", index.display()))?;
    let mut files: Vec<String> =
        map.values().filter_map(|file| file.as_str().map(str::to_owned)).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let parent = to.parent().map_or(Ok(()), fs::create_dir_all);
    parent
        .and_then(|()| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
