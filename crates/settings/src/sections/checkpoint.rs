//! What is kept of a run on disk, and the room that has to be there for it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

section! {
    /// Checkpoints.
    Checkpoint {
        /// 0: only at the end.
        every_steps: u32 = 20,
        /// The newest that stay; older ones are deleted.
        keep: u32 = 3,
        /// Steps go on while one is being written; the next checkpoint and the end of the run wait
        /// for it so long.
        write_timeout_ms: u32 = 600_000,
        /// Bytes to stay free where the run directory lies, for journal, rollouts and logs: a
        /// checkpoint that would leave less is not begun, and `/readyz` says no below it.
        free_bytes_min: u64 = 256 << 20,
    }
}

/// What is to be written does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} lies on a disk with {free} bytes free, but {needed} are needed beside the {reserve} that \
     are to stay free: make room there, choose another run.dir, or lower checkpoint.keep or \
     checkpoint.free_bytes_min",
    path.display()
)]
pub struct NoRoom {
    pub path: PathBuf,
    pub free: u64,
    pub needed: u64,
    /// `checkpoint.free_bytes_min`
    pub reserve: u64,
}

impl Checkpoint {
    /// What would have to be deleted first, so that `needed` bytes can be written.
    #[must_use]
    pub fn missing_bytes(&self, free: u64, needed: u64) -> u64 {
        needed.saturating_add(self.free_bytes_min).saturating_sub(free)
    }

    /// # Errors
    /// Something would have to be deleted first.
    pub fn check_room(&self, path: &Path, free: u64, needed: u64) -> Result<(), NoRoom> {
        match self.missing_bytes(free, needed) {
            0 => Ok(()),
            _ => Err(NoRoom { path: path.to_owned(), free, needed, reserve: self.free_bytes_min }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_is_free_beside_the_reserve() {
        let checkpoint = Checkpoint { free_bytes_min: 100, ..Checkpoint::default() };
        let missing = |free, needed| checkpoint.missing_bytes(free, needed);
        assert_eq!([missing(150, 50), missing(149, 50), missing(0, 0)], [0, 1, 100]);
        assert_eq!(missing(5, u64::MAX), u64::MAX - 5, "nothing overflows");
        assert_eq!(checkpoint.check_room(Path::new("/run"), 150, 50), Ok(()));
        let error = checkpoint.check_room(Path::new("/run"), 149, 50).unwrap_err().to_string();
        for part in ["/run lies", "149 bytes free", "50 are", "the 100 that", "checkpoint.keep"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
