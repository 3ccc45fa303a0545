//! Policy versions in a store, so that many actors do not all draw from the coordinator. Nothing there
//! is trusted: who takes a version checks it against its manifest, and has the stream where that
//! fails.

use std::collections::BTreeSet;

use runtime::off_workers;
use types::{Hash, WeightManifest};

use crate::{Store, StoreError};

/// The versions of one run.
#[derive(Clone, Debug)]
pub struct Versions {
    store: Store,
    dir: String,
}

impl Versions {
    /// `run` is written as `run_name` does.
    #[must_use]
    pub fn new(store: Store, run: &str) -> Self {
        Self { store, dir: format!("run-{run}/weights") }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// # Errors
    /// A store that does not answer or refuses.
    pub async fn offer(&self, manifest: &WeightManifest, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.put_bytes(&self.key(&manifest.file_name()), bytes).await
    }

    /// The bytes of a version, if they are those of its manifest, whose size has been looked at.
    ///
    /// # Errors
    /// No such version there, or something else under its name.
    pub async fn take(&self, manifest: &WeightManifest) -> Result<Vec<u8>, StoreError> {
        let key = self.key(&manifest.file_name());
        let bytes = self.store.get_bytes(&key, manifest.bytes).await?;
        let expected = manifest.hash;
        let (found, bytes) = off_workers(move || (Hash::of(&bytes), bytes)).await;
        if found == expected {
            return Ok(bytes);
        }
        let (place, fault) = (self.store.place().to_owned(), format!("its hash is {found}"));
        Err(StoreError::Damaged { key, place, fault })
    }

    /// Deletes all but these.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub async fn retain(&self, kept: &[WeightManifest]) -> Result<(), StoreError> {
        let kept: BTreeSet<String> = kept.iter().map(WeightManifest::file_name).collect();
        for (name, _) in self.store.list(&self.dir).await? {
            if !kept.contains(&name) {
                self.store.delete(&self.key(&name)).await?;
            }
        }
        Ok(())
    }
}
