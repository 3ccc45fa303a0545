//! Free space where a directory lies. How much of it is enough is for others to say.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::time::MissedTickBehavior;

use crate::off_workers;

/// Bytes that this process may still write to the file system of `path`.
///
/// # Errors
/// No such path, or a file system that does not say.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = statvfs(path)?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// Calls `look` at once and then after every `period`, off the async workers: a file system may take
/// long to answer. The caller spawns the future, which never ends.
pub async fn look_again(period: Duration, look: impl Fn() + Clone + Send + 'static) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        off_workers(look.clone()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_room_and_what_is_no_path_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
        let gone = free_bytes(&dir.path().join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
