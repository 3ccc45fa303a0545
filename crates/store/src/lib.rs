//! A run's files in an object store or a shared directory: requests with deadlines and bounded
//! repeats, and checkpoints, which are there whole or not at all. When something is stored or
//! fetched is decided where checkpoints are made and used.

mod backend;
mod error;
mod requests;
mod seal;
mod shelf;
mod versions;

pub use error::StoreError;
pub use requests::Store;
pub use seal::{BLANK_HASH, STATE, sealed_hash};
pub use shelf::{Shelf, run_name};
pub use versions::Versions;

#[cfg(test)]
mod faults;
