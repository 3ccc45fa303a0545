//! Checkpoints that a run's directory has no more, or never had, and its store has: chosen among
//! both, fetched and verified before anything reads them.

use std::fs;

use anyhow::{Context, bail};
use proto::JournalEntry;
use settings::Settings;
use store::{Shelf, Store, run_name};

use crate::journal::scan;
use crate::run_dir::{CheckpointChoice, CheckpointDir, RunDir};

/// Before the name of a directory that is being fetched; the learner clears such names away.
const UNFINISHED: &str = ".unfinished-fetched-";

/// The chosen checkpoint of a run, in its directory.
///
/// # Errors
/// No such checkpoint, one that is damaged, a store that cannot be used.
pub(crate) fn checkpoint(
    run_dir: &RunDir,
    choice: CheckpointChoice,
    settings: &Settings,
) -> anyhow::Result<CheckpointDir> {
    let here = run_dir.checkpoint(choice);
    if let (Ok(here), CheckpointChoice::Step(_)) = (&here, choice) {
        return Ok(here.clone());
    }
    let Some(store) = Store::open(&settings.store)? else { return Ok(here?) };
    let place = store.place().to_owned();
    let shelf = Shelf::new(store, run_name(run_of(run_dir)?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    let stored = match (runtime.block_on(shelf.steps()), here) {
        (Err(error), Ok(here)) => {
            eprintln!("note: {error}; {} alone was looked into", run_dir.shown());
            return Ok(here);
        }
        (stored, _) => stored?,
    };
    let step = run_dir.choose(choice, &stored)?;
    let here = run_dir.checkpoints()?.into_iter().find(|found| found.step == step);
    match here {
        Some(here) => Ok(here),
        None => {
            eprintln!("fetching the checkpoint of step {step} from {place}");
            runtime.block_on(fetch(&shelf, step, run_dir, settings))
        }
    }
}

async fn fetch(
    shelf: &Shelf,
    step: u32,
    run_dir: &RunDir,
    settings: &Settings,
) -> anyhow::Result<CheckpointDir> {
    let found = run_dir.checkpoint_dir(step);
    let name = found.path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = found.path.with_file_name(format!("{UNFINISHED}{name}"));
    shelf.download(step, &unfinished, &settings.checkpoint).await?;
    let renamed = fs::rename(&unfinished, &found.path);
    renamed.with_context(|| format!("cannot make {}", found.path.display()))?;
    Ok(found)
}

/// Which run it is, by its journal. It is only read: a coordinator may be writing into it.
fn run_of(run_dir: &RunDir) -> anyhow::Result<u64> {
    let path = run_dir.journal();
    let bytes = fs::read(&path);
    let bytes = bytes.with_context(|| {
        format!("cannot read {}, which says whose checkpoints to look for", path.display())
    })?;
    let found = scan(&bytes).with_context(|| format!("the journal {}", path.display()))?;
    let opened = found.entries.iter().find_map(|entry| match entry {
        JournalEntry::Opened { run, .. } => Some(*run),
        _ => None,
    });
    let Some(run) = opened else { bail!("{} does not say whose it is", path.display()) };
    Ok(run)
}
