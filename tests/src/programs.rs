//! The four programs, built once per test binary with the profile of the tests themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use serde_json::Value;

const NAMES: [&str; 4] = ["coordinator", "learner", "actor", "weak-server"];

/// Where the built programs lie.
#[derive(Debug)]
pub struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Builds them at the first call. `cargo test` builds only the binaries of the package under
    /// test, and a stale coordinator would test yesterday's code.
    ///
    /// # Panics
    /// The build fails.
    pub fn get() -> &'static Self {
        static PROGRAMS: OnceLock<Programs> = OnceLock::new();
        PROGRAMS.get_or_init(|| build().unwrap_or_else(|e| panic!("building the programs: {e:#}")))
    }

    /// # Panics
    /// A name that is none of the four.
    #[must_use]
    pub fn path(&self, name: &str) -> &Path {
        &self.0[name]
    }
}

fn build() -> anyhow::Result<Programs> {
    let mut cargo = Command::new(env!("CARGO"));
    // All targets, so that features resolve as they do for `cargo test` and nothing is built twice.
    cargo.args(["build", "--workspace", "--all-targets", "--message-format=json"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // What cargo says of the package under test: build scripts that watch it, such as ring's, would
    // run again, and all that depends on them would be built again.
    let names = std::env::vars_os().map(|(name, _)| name);
    let watched = ["CARGO_PKG_", "CARGO_MANIFEST_"];
    for name in names.filter(|name| watched.iter().any(|w| name.to_string_lossy().starts_with(w))) {
        cargo.env_remove(name);
    }
    let built = cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(built.status.success(), "cargo build ended with {}", built.status);
    let text = String::from_utf8(built.stdout).context("cargo's messages are not UTF-8")?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is not JSON")?;
        let is_test = message["profile"]["test"].as_bool().unwrap_or(true);
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if let (false, Some(path)) = (is_test, message["executable"].as_str())
            && NAMES.contains(&name)
        {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    let missing: Vec<_> = NAMES.iter().filter(|name| !found.contains_key(**name)).collect();
    ensure!(missing.is_empty(), "cargo built no executable for {missing:?}");
    Ok(Programs(found))
}
