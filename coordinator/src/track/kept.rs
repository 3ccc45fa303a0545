//! `track.json`: what trackers have to remember of a run from one coordinator to the next. No secret
//! is in it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::summary::write_json;

#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    content: Content,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// The journal's number of the run, in hexadecimal; the file of another run is nobody's.
    run: String,
    /// Milliseconds since 1970.
    began_ms: u64,
    mlflow_run: Option<String>,
}

impl Kept {
    /// As the run left it, or fresh; `began_ms` says when the run began.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(super) fn open(path: &Path, run: u64, began_ms: impl FnOnce() -> u64) -> io::Result<Self> {
        let run = format!("{run:016x}");
        let found = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // What is damaged is made anew: at worst a tracker shows the run twice.
            other => serde_json::from_slice::<Content>(&other?).ok(),
        };
        let content = match found.filter(|content| content.run == run) {
            Some(content) => content,
            None => Content { run, began_ms: began_ms(), mlflow_run: None },
        };
        let kept = Self { path: path.to_owned(), content };
        kept.write()?;
        Ok(kept)
    }

    pub(super) fn began_ms(&self) -> u64 {
        self.content.began_ms
    }

    pub(super) fn mlflow_run(&self) -> Option<&str> {
        self.content.mlflow_run.as_deref()
    }

    /// # Errors
    /// A file that cannot be written.
    pub(super) fn set_mlflow_run(&mut self, id: Option<String>) -> io::Result<()> {
        self.content.mlflow_run = id;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        write_json(&self.path, &self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_for_the_same_run_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("track.json");
        let mut kept = Kept::open(&path, 7, || 1_000).unwrap();
        kept.set_mlflow_run(Some("abc".to_owned())).unwrap();
        let again = Kept::open(&path, 7, || 2_000).unwrap();
        assert_eq!((again.began_ms(), again.mlflow_run()), (1_000, Some("abc")));
        let other = Kept::open(&path, 8, || 3_000).unwrap();
        assert_eq!((other.began_ms(), other.mlflow_run()), (3_000, None));
        fs::write(&path, "{").unwrap();
        assert_eq!(Kept::open(&path, 8, || 4_000).unwrap().began_ms(), 4_000);
    }
}
