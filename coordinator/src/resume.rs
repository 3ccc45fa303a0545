//! `coordinator launch --resume`: what a run left in its directory, checked against what is asked of
//! it now. Taking it further is `launch`'s.

use std::fs;
use std::io;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use settings::{Layers, Settings};
use toml::{Table, Value};

use crate::cli::{ConfigArgs, CountArgs, UsageError};
use crate::journal::{JournalFile, Surviving, surviving};
use crate::launch::make_paths_absolute;
use crate::membership::MemberCounts;
use crate::run_dir::RunDir;

/// A run's journal and what it says.
#[derive(Debug)]
pub struct History {
    pub journal: JournalFile,
    pub surviving: Surviving,
}

/// How many processes a run has; a resumed one may have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processes {
    pub actors: u32,
    pub learners: u32,
    pub weak_servers: u32,
}

impl Processes {
    /// What the flags say, and otherwise what was before.
    #[must_use]
    pub fn of(counts: CountArgs, before: Self) -> Self {
        Self {
            actors: counts.actors.unwrap_or(before.actors),
            learners: counts.learners.unwrap_or(before.learners),
            weak_servers: counts.weak_servers.unwrap_or(before.weak_servers),
        }
    }

    #[must_use]
    pub fn counts(self) -> MemberCounts {
        let Self { actors, learners, weak_servers } = self;
        MemberCounts { actors, weak_servers, learners }
    }

    /// # Errors
    /// A file that is missing or holds something else.
    pub fn read(run_dir: &RunDir) -> anyhow::Result<Self> {
        let path = run_dir.launched();
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}

impl Default for Processes {
    fn default() -> Self {
        Self { actors: 1, learners: 1, weak_servers: 1 }
    }
}

/// The settings of the run in this directory.
///
/// # Errors
/// No run there, or settings that are given now, or as `KEY=VALUE` in `more`, and differ: each by
/// its name.
pub fn settings(
    run_dir: &RunDir,
    ConfigArgs { config, set }: &ConfigArgs,
    more: Vec<String>,
) -> anyhow::Result<Settings> {
    let path = run_dir.config().to_string_lossy().into_owned();
    let stored =
        Layers { file: Some(path.clone()), set: Vec::new(), environment: Some(Vec::new()) };
    let stored = stored.load().with_context(|| format!("{path} is damaged"))?;
    let asked = ConfigArgs { config: config.clone().or(Some(path)), set: set.clone() };
    let mut asked = asked.with(more)?;
    make_paths_absolute(&mut asked);
    asked.run.clone_from(&stored.run);
    let differing = differences(&stored, &asked);
    if !differing.is_empty() {
        let text = format!(
            "the run in {} was started with other settings:\n{}leave them out, or start another \
             run",
            run_dir.shown(),
            differing.concat()
        );
        return Err(UsageError(text).into());
    }
    Ok(stored)
}

/// A line for each setting that is not the same.
fn differences(stored: &Settings, asked: &Settings) -> Vec<String> {
    let pairs = leaves(stored).into_iter().zip(leaves(asked));
    let differing = pairs.filter(|((_, was), (_, is))| was != is);
    differing.map(|((key, was), (_, is))| format!("  {key} was {was} and is {is}\n")).collect()
}

/// Every setting with its value as TOML writes it, in one order for all.
pub(crate) fn leaves(settings: &Settings) -> Vec<(String, String)> {
    let table: Table = settings.to_toml().parse().expect("the canonical text is TOML");
    let mut found = Vec::new();
    collect("", &Value::Table(table), &mut found);
    found
}

fn collect(prefix: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let Value::Table(table) = value else {
        found.push((prefix.to_owned(), value.to_string()));
        return;
    };
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        collect(&name, value, found);
    }
}

/// The journal of a run, written anew with only what still counts.
///
/// # Errors
/// A journal that cannot be used, or none.
pub fn history(run_dir: &RunDir) -> anyhow::Result<History> {
    let path = run_dir.journal();
    if !path.is_file() {
        bail!("{} has no journal: it is not of a run that can be resumed", run_dir.shown());
    }
    let (journal, recovered) = JournalFile::open(&path)?;
    if let Some(torn) = recovered.cut {
        eprintln!(
            "the journal's torn end was cut off: {} bytes that nobody was answered for",
            torn.bytes
        );
    }
    let surviving = surviving(recovered.entries)?.gone_on_from();
    let journal = journal.rewrite(&surviving.entries())?;
    Ok(History { journal, surviving })
}

/// The journal of a new run. What a run that never began left is nobody's.
///
/// # Errors
/// A journal that cannot be written.
pub fn new_history(run_dir: &RunDir, run: u64) -> anyhow::Result<History> {
    let path = run_dir.journal();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    let surviving = Surviving { run: Some(run), ..Surviving::default() };
    let (journal, _) = JournalFile::open(&path)?;
    Ok(History { journal: journal.rewrite(&surviving.entries())?, surviving })
}

/// # Errors
/// The run is complete.
pub fn check_unfinished(run_dir: &RunDir) -> anyhow::Result<()> {
    if run_dir.summary().is_file() {
        let shown = run_dir.shown();
        bail!("the run in {shown} is complete: see it with `coordinator eval {shown}`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_named_with_both_values() {
        let stored = Settings::default();
        let mut asked = stored.clone();
        asked.train.steps = 7;
        asked.eval.schedules.pop();
        let found = differences(&stored, &asked);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.contains(&"  train.steps was 80 and is 7\n".to_owned()), "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("  eval.schedules was [")), "{found:?}");
        assert!(differences(&stored, &stored).is_empty());
    }

    #[test]
    fn flags_win_over_what_was_before() {
        let args = |text: &str| {
            use clap::Parser;
            let words = format!("coordinator launch {text}");
            match crate::cli::Cli::parse_from(words.split_whitespace()).command {
                crate::cli::Command::Launch(args) => args.counts,
                other => panic!("{other:?}"),
            }
        };
        let before = Processes { actors: 4, learners: 2, weak_servers: 1 };
        assert_eq!(Processes::of(args("--resume --run-dir x"), before), before);
        let fewer = Processes::of(args("--resume --run-dir x --actors 1"), before);
        assert_eq!(fewer, Processes { actors: 1, ..before });
        assert_eq!(Processes::of(args(""), Processes::default()).counts().actors, 1);
    }
}
