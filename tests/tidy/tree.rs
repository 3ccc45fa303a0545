//! The files of the repository as a fresh clone has them: read here, judged elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::source::Source;

/// Directories that are outputs or inputs of runs, not part of the repository.
const OUTSIDE: [&str; 4] = ["target", "runs", "shared", "node_modules"];

/// Dot directories that are part of it.
const DOT_INSIDE: [&str; 3] = [".ci", ".github", ".config"];

/// Text files by path relative to the root. Binary files are left out.
pub(crate) struct Tree {
    texts: BTreeMap<String, String>,
}

impl Tree {
    pub(crate) fn read() -> Self {
        let mut texts = BTreeMap::new();
        collect(&root(), "", &mut texts);
        Self { texts }
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn rust_sources(&self) -> impl Iterator<Item = Result<Source, String>> {
        let rust = self.texts().filter(|(path, _)| path.ends_with(".rs"));
        rust.map(|(path, text)| Source::parse(path, text))
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests package lies in the workspace").to_owned()
}

fn collect(directory: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) {
    let entries = fs::read_dir(directory).expect("a directory of the repository is readable");
    for entry in entries {
        let entry = entry.expect("a directory of the repository is readable");
        let kind = entry.file_type().expect("an entry has a type");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            if is_inside(prefix, &name) {
                collect(&entry.path(), &format!("{path}/"), texts);
            }
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            texts.insert(path, text);
        }
    }
}

fn is_inside(prefix: &str, directory: &str) -> bool {
    if directory.starts_with('.') {
        return DOT_INSIDE.contains(&directory);
    }
    // Only at the root: a module may well be called runs.
    !(prefix.is_empty() && OUTSIDE.contains(&directory))
}

#[test]
fn outputs_and_hidden_directories_are_outside() {
    assert!(!is_inside("", "target"));
    assert!(!is_inside("", ".git"));
    assert!(is_inside("", ".ci"));
    assert!(is_inside("", "crates"));
    assert!(is_inside("coordinator/src/", "runs"));
}
