//! `coordinator model get` and `coordinator data get` against a hub on this machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod data;
mod faults;
mod hub;
mod models;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use hub::Hub;

const MODEL: &str = "models/owner/small";

/// A place to fetch into, with a hub to fetch from.
struct Desk {
    hub: Hub,
    dir: TempDir,
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Failed with all of these words in its one error.
    fn says(self, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(1), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in:\n{}", self.stderr);
        }
        assert!(self.stdout.is_empty() && !self.stderr.contains("panicked"), "{self:?}");
        self
    }

    /// The path on standard output.
    fn path(&self) -> PathBuf {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        PathBuf::from(self.stdout.trim_end())
    }
}

impl Desk {
    fn new() -> Self {
        Self { hub: Hub::start(), dir: tempfile::tempdir().unwrap() }
    }

    /// A repository with a small model in one file.
    fn with_model() -> Self {
        let desk = Self::new();
        desk.hub.add(
            MODEL,
            &[
                ("README.md", b"unwanted"),
                ("config.json", b"{\"model_type\": \"llama\"}"),
                ("tokenizer.json", b"{}"),
                ("model.safetensors", &weights()),
                ("pytorch_model.bin", b"unwanted"),
            ],
        );
        desk
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, &[])
    }

    fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(args).current_dir(self.dir.path());
        // Nothing of the machine's own settings, proxies included.
        command.env_clear().env("HF_HOME", self.dir.path().join("hf"));
        command.env("HF_ENDPOINT", &self.hub.endpoint).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Ended { code: output.status.code(), stdout, stderr }
    }

    fn get(&self, more: &[&str]) -> Ended {
        let args = ["model", "get", "owner/small", "--retry-wait-ms", "1"];
        self.run(&[&args, more].concat())
    }

    fn cached(&self) -> PathBuf {
        self.dir.path().join("hf/hub/models--owner--small")
    }

    fn partial(&self) -> PathBuf {
        let etag = hub::etag("model.safetensors", &weights());
        self.cached().join("blobs").join(format!("{etag}.incomplete"))
    }
}

/// Bytes that differ everywhere.
fn weights() -> Vec<u8> {
    (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
