//! What can go wrong between a run and its store, each with the way out.

use std::io;
use std::path::PathBuf;

use settings::NoRoom;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Address(String),
    #[error(
        "store.url is {0}, and this program is built without cloud stores: build it with `cargo build \
         --release --features cloud`, or name a directory that all machines share as file:///DIRECTORY"
    )]
    NoCloud(String),
    #[error(
        "store.url names the directory {0}, which is not there: make it, or mount what belongs there"
    )]
    NoDirectory(PathBuf),
    #[error("store.url is {place}, which cannot be used: {cause}")]
    Unusable { place: String, cause: String },
    #[error("{place} has no {key}; if that is all that is missing, its bucket may be: {cause}")]
    Missing { place: String, key: String, cause: String },
    #[error(
        "{what} is refused by {place}: see that the credentials in the environment, or the \
         directory's owner, allow it ({cause})"
    )]
    Denied { what: String, place: String, cause: String },
    #[error(
        "{what} failed {attempts} times at {place}, so it is given up (store.timeout_ms, \
         store.retries_max): {cause}"
    )]
    Failed { what: String, place: String, attempts: u32, cause: String },
    #[error("{what} cannot be done at {place}: {cause}")]
    Refused { what: String, place: String, cause: String },
    #[error("{key} at {place} is damaged, {fault}: use another checkpoint")]
    Damaged { key: String, place: String, fault: String },
    #[error("{key} at {place} is of another run: choose another store.url, or go on with that run")]
    OtherRun { key: String, place: String },
    #[error("cannot use {path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}
