//! Checkpoints: a Hugging Face directory with the optimiser's state beside it, whole or not at
//! all. When one is due is the training loop's decision, on which thread it is written `writer`'s.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Tensor};
use fail::fail_point;
use grpo::{OptimizerState, SavedState};
use model::{
    ModelFiles, ModelSource, Placement, TensorFile, Tensors, Texts, write_directory, write_numbers,
};
use settings::Settings;
use types::{Hash, is_file_name};

pub use remote::{Remote, Stopping};
pub use state::{LoraState, RandomState, State};
pub use writer::Checkpoints;
#[cfg(test)]
pub(crate) use writer::Place;

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const WEIGHTS: &str = "model.safetensors";
/// No checkpoint is whole without them.
const REQUIRED: [&str; 4] = ["config.json", "tokenizer.json", WEIGHTS, OPTIMIZER];
/// Only where adapters were trained; the weights hold them too, merged.
const ADAPTERS: &str = "adapters.safetensors";
const PREFIX: &str = "step-";
/// Leading dot: never taken for a checkpoint. Being written.
const UNFINISHED: &str = ".unfinished-";
/// Whole: it stands in for its step until the new one is in place.
const REPLACED: &str = ".replaced-";
/// Being deleted.
const RETIRED: &str = ".retired-";

/// What goes into a checkpoint; `state.hashes` is filled in when it is written. Training goes on
/// without changing it.
pub struct Contents {
    pub state: State,
    pub texts: Arc<Texts>,
    /// Safetensors.
    pub weights: Arc<Vec<u8>>,
    pub optimizer: OptimizerState,
    /// Safetensors, where `state.lora` says that there are any.
    pub adapters: Option<Vec<u8>>,
}

/// The optimiser's file, open, of which each rank reads what it needs.
#[derive(Debug)]
pub struct Moments(TensorFile);

impl SavedState for Moments {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn kind(&self, name: &str) -> Option<(String, Vec<usize>)> {
        self.0.kind(name)
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        self.0.read(name, &Placement::cpu(DType::F32)).map_err(candle_core::Error::wrap)
    }
}

/// A checkpoint read back and verified.
pub struct Checkpoint {
    pub state: State,
    pub files: ModelFiles,
    pub optimizer: Moments,
    /// Where `state.lora` says that there are any.
    pub adapters: Option<Tensors>,
}

impl Contents {
    /// About as many as its files have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let texts: usize = self.texts.values().map(String::len).sum();
        let moments: usize = self.optimizer.entries().map(|(_, _, x)| size_of_val(x)).sum();
        let adapters = self.adapters.as_ref().map_or(0, Vec::len);
        (texts + self.weights.len() + moments + adapters) as u64
    }
}

/// The `checkpoints` directory of a run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    keep: usize,
}

impl CheckpointStore {
    /// For those who only read: another process may be writing into the directory. `keep` is how
    /// many of the newest stay.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn beside(dir: PathBuf, keep: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, keep: keep.max(1) as usize })
    }

    /// For the one that writes. What an interrupted write left is put in order: a checkpoint that
    /// stepped aside comes back unless its successor is there, the rest goes.
    ///
    /// # Errors
    /// The directory cannot be made, read or put in order.
    pub fn open(dir: PathBuf, keep: u32) -> anyhow::Result<Self> {
        let store = Self::beside(dir, keep)?;
        for name in store.names()? {
            if name.starts_with(UNFINISHED) || name.starts_with(RETIRED) {
                store.remove(&name)?;
            } else if let Some(of) = name.strip_prefix(REPLACED) {
                match store.dir.join(of).exists() {
                    true => store.retire(&name)?,
                    false => store.rename(&name, of)?,
                }
            }
        }
        Ok(store)
    }

    /// The directory's name of a step: `step-000020`.
    #[must_use]
    pub fn name(step: u32) -> String {
        format!("{PREFIX}{step:06}")
    }

    /// `state.json` says that a checkpoint is whole: a directory gets its name with the file in it
    /// and loses the name before the file.
    #[must_use]
    pub fn has(&self, step: u32) -> bool {
        self.dir.join(Self::name(step)).join(STATE).is_file()
    }

    /// The directory of a step's checkpoint.
    #[must_use]
    pub fn path(&self, step: u32) -> PathBuf {
        self.dir.join(Self::name(step))
    }

    /// Deletes the oldest committed ones beyond those to keep: what is not committed is no reason
    /// to delete what is.
    ///
    /// # Errors
    /// A directory that cannot be deleted.
    pub fn prune(&self, committed: u32) -> anyhow::Result<()> {
        let steps = self.steps()?;
        let committed = steps.iter().rev().filter(|step| **step <= committed);
        committed.skip(self.keep).try_for_each(|step| self.retire(&Self::name(*step)))
    }

    /// Deletes what the next checkpoint replaces anyway, so that `missing` bytes become free. False
    /// where that is not enough; nothing is deleted then.
    ///
    /// # Errors
    /// A directory that cannot be read or deleted.
    fn make_room(&self, missing: u64, committed: u32) -> anyhow::Result<bool> {
        match room::make(missing, &self.sizes(committed)?, self.keep) {
            Some(go) => go.iter().try_for_each(|step| self.retire(&Self::name(*step)))?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the bytes of a checkpoint would fit, with what it replaces gone.
    ///
    /// # Errors
    /// `NoRoom` where they would not, a directory that cannot be read.
    pub fn check_room(&self, settings: &Settings, bytes: u64) -> anyhow::Result<()> {
        let free = self.free_bytes()?;
        let missing = settings.checkpoint.missing_bytes(free, bytes);
        if room::make(missing, &self.sizes(u32::MAX)?, self.keep).is_none() {
            settings.checkpoint.check_room(&self.dir, free, bytes)?;
        }
        Ok(())
    }

    fn free_bytes(&self) -> anyhow::Result<u64> {
        let unknown = || format!("the free space of {} is not known", self.dir.display());
        runtime::free_bytes(&self.dir).with_context(unknown)
    }

    /// Steps and bytes of the whole checkpoints up to this step, ascending.
    fn sizes(&self, until: u32) -> anyhow::Result<Vec<(u32, u64)>> {
        let size = |step: u32| -> anyhow::Result<(u32, u64)> {
            let mut bytes = 0;
            for entry in fs::read_dir(self.path(step))? {
                bytes += entry?.metadata()?.len();
            }
            Ok((step, bytes))
        };
        self.steps()?.into_iter().filter(|step| *step <= until).map(size).collect()
    }

    /// Deletes the checkpoints of later steps: the run went back to before them.
    ///
    /// # Errors
    /// One of another run, or one that cannot be deleted.
    pub fn discard_after(&self, step: u32, run: u64) -> anyhow::Result<()> {
        for later in self.steps()?.into_iter().filter(|of| *of > step) {
            match read_state(&self.path(later)) {
                Ok(state) => state.check_run(run)?,
                Err(error) => {
                    tracing::warn!(
                        step = later,
                        error = format!("{error:#}"),
                        "a damaged one goes"
                    );
                }
            }
            self.retire(&Self::name(later))?;
        }
        Ok(())
    }

    /// Writes a checkpoint under another name, then gives it its own. Returns the directory's name.
    ///
    /// # Errors
    /// A file cannot be written; no checkpoint is changed then.
    pub fn write(&self, contents: Contents) -> anyhow::Result<String> {
        let name = Self::name(contents.state.step);
        let (unfinished, target) =
            (self.dir.join(format!("{UNFINISHED}{name}")), self.dir.join(&name));
        let written = write_files(&unfinished, contents).and_then(|()| self.put(&name));
        if let Err(error) = written {
            // What is left over is removed at the next start, if it cannot be now.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error.context(format!("cannot write checkpoint {}", target.display())));
        }
        Ok(name)
    }

    /// Steps of whole checkpoints, ascending.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn steps(&self) -> anyhow::Result<Vec<u32>> {
        let names = self.names()?;
        let steps = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let mut steps: Vec<u32> = steps.filter(|step| self.has(*step)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let unreadable = || format!("cannot read {}", self.dir.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).with_context(unreadable)? {
            names.push(entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Renames into place. A directory cannot replace another in one move, so an older checkpoint
    /// of the same step steps aside first, and comes back if the new one cannot take its place.
    fn put(&self, name: &str) -> anyhow::Result<()> {
        let (unfinished, aside) = (format!("{UNFINISHED}{name}"), format!("{REPLACED}{name}"));
        let replaces = self.dir.join(name).exists();
        if replaces {
            self.rename(name, &aside)?;
            fail_point!("checkpoint::aside");
        }
        if let Err(error) = self.rename(&unfinished, name) {
            if replaces {
                self.rename(&aside, name)?;
            }
            return Err(error);
        }
        fail_point!("checkpoint::renamed");
        sync(&self.dir)?;
        fail_point!("checkpoint::directory_synced");
        if replaces { self.retire(&aside) } else { Ok(()) }
    }

    /// Deletes a whole checkpoint. It loses its name first, so that a torn one is never found.
    fn retire(&self, name: &str) -> anyhow::Result<()> {
        let retired = format!("{RETIRED}{name}");
        if self.dir.join(&retired).exists() {
            self.remove(&retired)?;
        }
        self.rename(name, &retired)?;
        fail_point!("checkpoint::retiring");
        self.remove(&retired)?;
        fail_point!("checkpoint::retired");
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let (from, to) = (self.dir.join(from), self.dir.join(to));
        fs::rename(&from, &to)
            .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Reads a checkpoint and verifies every hash.
///
/// # Errors
/// A directory that holds something else, a missing or damaged file, another format.
pub fn load_checkpoint(dir: &Path) -> anyhow::Result<Checkpoint> {
    let state = read_state(dir)?;
    state.check_format(dir)?;
    let required = REQUIRED.into_iter().chain(state.lora.is_some().then_some(ADAPTERS));
    if let Some(name) = required.into_iter().find(|name| !state.hashes.contains_key(*name)) {
        bail!(
            "{} is damaged, it names no {name}: use an older checkpoint",
            dir.join(STATE).display()
        );
    }
    for (name, expected) in &state.hashes {
        ensure!(
            is_file_name(name),
            "{} is damaged, it names {name:?}, which is no file beside it: use an older checkpoint",
            dir.join(STATE).display()
        );
        let path = dir.join(name);
        let found = hash_file(&path).with_context(|| format!("{}", path.display()))?.to_string();
        ensure!(
            found == *expected,
            "{} is damaged, its hash is {found} where {STATE} says {expected}: use an older \
             checkpoint",
            path.display()
        );
    }
    let placement = Placement::cpu(DType::F32);
    let files = ModelSource::Directory(dir.to_owned()).load(0, &placement)?;
    let adapters = || TensorFile::open(&dir.join(ADAPTERS))?.read_all(&placement);
    let adapters = state.lora.is_some().then(adapters).transpose()?;
    let optimizer = Moments(TensorFile::open(&dir.join(OPTIMIZER))?);
    Ok(Checkpoint { files, optimizer, adapters, state })
}

fn read_state(dir: &Path) -> anyhow::Result<State> {
    let state = dir.join(STATE);
    if !state.is_file() {
        bail!("{} is no checkpoint, it has no {STATE}: name a step-… directory", dir.display());
    }
    sealed::read(&state)
}

fn write_files(dir: &Path, contents: Contents) -> anyhow::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let Contents { mut state, texts, weights, optimizer, adapters } = contents;
    fail_point!("checkpoint::begun");
    write_directory(dir, &texts, &weights)?;
    fail_point!("checkpoint::weights_written");
    write_numbers(&dir.join(OPTIMIZER), optimizer.entries())?;
    fail_point!("checkpoint::optimizer_written");
    let mut names: Vec<&str> = texts.keys().map(String::as_str).collect();
    names.extend([WEIGHTS, OPTIMIZER]);
    if let Some(adapters) = &adapters {
        fs::write(dir.join(ADAPTERS), adapters)?;
        names.push(ADAPTERS);
    }
    state.set_format();
    let hash = |name: &str| Ok((name.to_owned(), hash_file(&dir.join(name))?.to_string()));
    state.hashes = names.into_iter().map(hash).collect::<io::Result<_>>()?;
    sealed::write(&dir.join(STATE), &mut state)?;
    fail_point!("checkpoint::state_written");
    for name in state.hashes.keys().map(String::as_str).chain([STATE]) {
        sync(&dir.join(name))?;
    }
    sync(dir)?;
    fail_point!("checkpoint::synced");
    Ok(())
}

fn hash_file(path: &Path) -> io::Result<Hash> {
    Hash::of_reader(File::open(path)?)
}

fn sync(path: &Path) -> anyhow::Result<()> {
    Ok(File::open(path)?.sync_all()?)
}

#[cfg(test)]
mod faults;
mod remote;
mod room;
mod sealed;
mod state;
#[cfg(test)]
mod tests;
mod writer;
