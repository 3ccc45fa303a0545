//! The checkpoints of one run in a store. `state.json` comes last and goes first, so that what is
//! half there is never taken for a checkpoint; what is fetched is verified by the hashes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use runtime::off_workers;
use settings::Checkpoint;
use types::Hash;

use crate::requests::fresh_dir;
use crate::seal::Sealed;
use crate::{STATE, Store, StoreError};

const PREFIX: &str = "step-";

/// A run's checkpoints.
#[derive(Clone, Debug)]
pub struct Shelf {
    store: Store,
    /// In hexadecimal digits, as in `state.json`.
    run: String,
}

/// A run's name in keys and in `state.json`.
#[must_use]
pub fn run_name(run: u64) -> String {
    format!("{run:016x}")
}

/// What lies under a checkpoint's name: files and their sizes.
type Files = BTreeMap<String, u64>;

impl Shelf {
    /// `run` is written as `run_name` does.
    #[must_use]
    pub fn new(store: Store, run: String) -> Self {
        Self { store, run }
    }

    fn dir(&self) -> String {
        format!("run-{}/checkpoints", self.run)
    }

    fn key(&self, step: u32, name: &str) -> String {
        format!("{}/{PREFIX}{step:06}/{name}", self.dir())
    }

    /// Steps of whole checkpoints.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub async fn steps(&self) -> Result<BTreeSet<u32>, StoreError> {
        let found = self.traces().await?.into_iter();
        Ok(found.filter(|(_, whole)| *whole).map(|(step, _)| step).collect())
    }

    /// Steps under which anything lies, and whether it is a whole checkpoint.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub async fn traces(&self) -> Result<BTreeMap<u32, bool>, StoreError> {
        let found = self.found().await?.into_iter();
        Ok(found.map(|(step, files)| (step, files.contains_key(STATE))).collect())
    }

    async fn found(&self) -> Result<BTreeMap<u32, Files>, StoreError> {
        let mut found: BTreeMap<u32, Files> = BTreeMap::new();
        for (key, bytes) in self.store.list(&self.dir()).await? {
            let Some((dir, name)) = key.split_once('/') else { continue };
            let step = dir.strip_prefix(PREFIX).and_then(|step| step.parse().ok());
            if let Some(step) = step {
                found.entry(step).or_default().insert(name.to_owned(), bytes);
            }
        }
        Ok(found)
    }

    /// Stores the checkpoint in this directory. Its files are open from the start, so that it may
    /// be deleted meanwhile. Returns the bytes that were sent.
    ///
    /// # Errors
    /// What is no whole checkpoint of this run, a store that does not answer or refuses: nothing
    /// under this step counts as a checkpoint then.
    pub async fn upload(&self, dir: &Path) -> Result<u64, StoreError> {
        let local = |path: &Path, cause| StoreError::File { path: path.to_owned(), cause };
        let path = dir.join(STATE);
        let state = fs::read(&path).map_err(|cause| local(&path, cause))?;
        let sealed = self.sealed(&state, &path.display().to_string())?;
        let mut files = Vec::new();
        for name in sealed.hashes.keys() {
            let path = dir.join(name);
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) = opened.map_err(|cause| local(&path, cause))?;
            files.push((name, bytes, Arc::new(file)));
        }
        self.store.delete(&self.key(sealed.step, STATE)).await?;
        let mut sent = state.len() as u64;
        for (name, bytes, file) in files {
            self.store.put_file(&self.key(sealed.step, name), &file, bytes).await?;
            sent += bytes;
        }
        self.store.write(&self.key(sealed.step, STATE), &state).await?;
        Ok(sent)
    }

    /// Deletes what lies under these steps, `state.json` first.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub async fn delete(&self, steps: &[u32]) -> Result<(), StoreError> {
        if steps.is_empty() {
            return Ok(());
        }
        let found = self.found().await?;
        for step in steps {
            self.store.delete(&self.key(*step, STATE)).await?;
            for name in found.get(step).into_iter().flat_map(Files::keys) {
                self.store.delete(&self.key(*step, name)).await?;
            }
        }
        Ok(())
    }

    /// Fetches a checkpoint into a directory of its own, `to`, and verifies it.
    ///
    /// # Errors
    /// None of that step that is whole, one that is damaged or of another run, no room.
    pub async fn download(
        &self,
        step: u32,
        to: &Path,
        room: &Checkpoint,
    ) -> Result<(), StoreError> {
        let (key, place) = (self.key(step, STATE), self.store.place().to_owned());
        let damaged = |name: &str, fault| {
            let (key, place) = (self.key(step, name), self.store.place().to_owned());
            StoreError::Damaged { key, place, fault }
        };
        let there = self.found().await?.remove(&step).unwrap_or_default();
        if !there.contains_key(STATE) {
            let cause = "whoever stored it did not come to its end".to_owned();
            return Err(StoreError::Missing { place, key, cause });
        }
        let state = self.store.read(&key).await?;
        let sealed = self.sealed(&state, &key)?;
        if sealed.step != step {
            return Err(damaged(STATE, format!("it is of step {}", sealed.step)));
        }
        let size = |name: &String| there.get(name).copied();
        if let Some(name) = sealed.hashes.keys().find(|name| size(name).is_none()) {
            return Err(damaged(name, "it is not there".to_owned()));
        }
        let bytes: u64 = sealed.hashes.keys().filter_map(size).sum();
        fresh_dir(to)?;
        let free = runtime::free_bytes(to);
        let free = free.map_err(|cause| StoreError::File { path: to.to_owned(), cause })?;
        room.check_room(to, free, bytes)?;
        for (name, expected) in &sealed.hashes {
            let path = to.join(name);
            self.store.get_file(&self.key(step, name), there[name], &path).await?;
            let found = off_workers({
                let path = path.clone();
                move || Hash::of_reader(File::open(path)?)
            });
            let found = found.await.map_err(|cause| StoreError::File { path, cause })?.to_string();
            if found != *expected {
                let fault = format!("its hash is {found} where {STATE} says {expected}");
                return Err(damaged(name, fault));
            }
        }
        let path = to.join(STATE);
        let written =
            fs::write(&path, state).and_then(|()| synced(&path)).and_then(|()| synced(to));
        written.map_err(|cause| StoreError::File { path, cause })
    }

    fn sealed(&self, state: &[u8], key: &str) -> Result<Sealed, StoreError> {
        let (key, place) = (key.to_owned(), self.store.place().to_owned());
        let sealed = Sealed::read(state).map_err(|fault| StoreError::Damaged {
            key: key.clone(),
            place: place.clone(),
            fault,
        })?;
        if sealed.run != self.run {
            return Err(StoreError::OtherRun { key, place });
        }
        Ok(sealed)
    }
}

fn synced(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
