//! A wall clock that a test sets while processes run, by Debian's libfaketime. Their monotonic clocks
//! go on as they are.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::skip::say_skipped;

/// Of the processes that are started under its variables.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    dir: TempDir,
}

impl WallClock {
    /// The true time at first. Says loudly that a test is skipped where libfaketime is not installed.
    ///
    /// # Panics
    /// No temporary directory.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        let Some(library) = library() else {
            say_skipped(test, "install the Debian package `faketime`");
            return None;
        };
        let clock = Self { library, dir: tempfile::tempdir().expect("a temporary directory") };
        clock.jump(0);
        Some(clock)
    }

    /// From now on the clock is so many seconds before or after the true time.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn jump(&self, seconds: i32) {
        // Whoever reads it meanwhile finds the one or the other.
        let fresh = self.dir.path().join("fresh");
        fs::write(&fresh, format!("{seconds:+}")).expect("a file of ours");
        fs::rename(fresh, self.offset()).expect("renamed");
    }

    /// Of the environment.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().expect("its name is UTF-8").to_owned();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.offset())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn offset(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}

/// The one for programs with threads.
fn library() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let names = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    names.into_iter().find(|path| path.is_file())
}
