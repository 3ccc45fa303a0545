//! The cache's layout, which is that of Hugging Face's own tools, so that each finds what the other
//! fetched: `blobs/ETAG` hold bytes, `snapshots/COMMIT/FILE` are links to them, `refs/REVISION`
//! names a commit.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use types::is_file_name;

use super::client::Repository;
use super::error::FetchError;

/// One repository's part of the cache.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    dir: PathBuf,
}

impl Cached {
    pub(super) fn new(cache: &Path, repository: &Repository) -> Self {
        let name = repository.name.replace('/', "--");
        Self { dir: cache.join(format!("{}s--{name}", repository.kind.name())) }
    }

    /// Where the bytes with this etag lie, or will.
    ///
    /// # Errors
    /// An etag that is no file name.
    pub(super) fn blob(&self, etag: &str) -> Result<PathBuf, FetchError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if etag.is_empty() || !etag.chars().all(plain) {
            return Err(FetchError::Name(etag.to_owned()));
        }
        Ok(self.dir.join("blobs").join(etag))
    }

    /// The directory of a commit's files.
    ///
    /// # Errors
    /// A commit that is no file name.
    pub(super) fn snapshot(&self, commit: &str) -> Result<PathBuf, FetchError> {
        if !is_file_name(commit) {
            return Err(FetchError::Name(commit.to_owned()));
        }
        Ok(self.dir.join("snapshots").join(commit))
    }

    /// Puts a blob into a commit's directory under its name there, and returns the path.
    ///
    /// # Errors
    /// A name or an etag that leads out of the cache; a link that cannot be made.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, FetchError> {
        let name = relative(file)?;
        self.blob(etag)?;
        let path = self.snapshot(commit)?.join(&name);
        // From the file's directory up to the repository's.
        let up = "../".repeat(name.components().count() + 1);
        let target = PathBuf::from(up).join("blobs").join(etag);
        let fault = |cause| FetchError::File { path: path.clone(), cause };
        fs::create_dir_all(path.parent().unwrap_or(&self.dir)).map_err(fault)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(&target, &path).map_err(fault)?;
        Ok(path)
    }

    /// Remembers what a branch or a tag stands for.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<(), FetchError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.dir.join("refs").join(relative(revision)?);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        written
            .and_then(|()| fs::write(&path, commit))
            .map_err(|cause| FetchError::File { path, cause })
    }
}

/// A path that leads nowhere but down.
pub(super) fn relative(name: &str) -> Result<PathBuf, FetchError> {
    let path = Path::new(name);
    let down = |component| matches!(component, Component::Normal(_));
    if name.is_empty() || name.contains('\\') || !path.components().all(down) {
        return Err(FetchError::Name(name.to_owned()));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fetch::client::RepositoryKind;

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../x", "/etc/passwd", "a/../../x", "", ".", "a\\..\\b"] {
            assert!(relative(name).is_err(), "{name}");
        }
        assert_eq!(relative("original/a.gguf").unwrap(), PathBuf::from("original/a.gguf"));
        let repository =
            Repository { kind: RepositoryKind::Model, name: "o/n".into(), revision: "main".into() };
        let cached = Cached::new(Path::new("/c"), &repository);
        assert!(cached.blob("../../x").is_err() && cached.snapshot("..").is_err());
        assert_eq!(cached.blob("ab1").unwrap(), PathBuf::from("/c/models--o--n/blobs/ab1"));
    }

    /// Texts that are likely to lead somewhere else.
    fn names() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("/".to_owned()),
            Just("\\".to_owned()),
            Just("\0".to_owned()),
            Just("a".to_owned()),
            any::<String>(),
        ];
        prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
    }

    /// Every path below a directory; links are not followed.
    fn below(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut found = Vec::new();
        for entry in entries {
            if entry.file_type().unwrap().is_dir() {
                found.extend(below(&entry.path()));
            }
            found.push(entry.path());
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn row_21_nothing_that_a_hub_says_is_written_outside_its_repository(
            (owner, file, commit, etag, revision) in (names(), names(), names(), names(), names())
        ) {
            let root = tempfile::tempdir().unwrap();
            let cache = root.path().join("x/y/cache");
            fs::create_dir_all(&cache).unwrap();
            let name = format!("{owner}/n");
            let repository = Repository { kind: RepositoryKind::Model, name, revision };
            let cached = Cached::new(&cache, &repository);
            if let Ok(blob) = cached.blob(&etag) {
                let _ = fs::create_dir_all(blob.parent().unwrap());
                let _ = fs::write(blob, "bytes");
            }
            let _ = cached.link(&commit, &file, &etag);
            let _ = cached.link("c0ffee", &file, "etag");
            let _ = cached.link(&commit, "file", "etag");
            let _ = cached.remember(&repository.revision, &commit);
            let expected = [root.path().join("x"), root.path().join("x/y"), cache.clone()];
            for path in below(root.path()) {
                let inside = path.starts_with(&cached.dir) || expected.contains(&path);
                prop_assert!(inside, "{path:?}");
                if let Ok(target) = fs::read_link(&path) {
                    let up = target.components().filter(|c| *c == Component::ParentDir).count();
                    let depth = path.strip_prefix(&cached.dir).unwrap().components().count() - 1;
                    prop_assert_eq!(up, depth, "{:?} leads to {:?}", path, target);
                    prop_assert_eq!(target.components().count(), up + 2);
                }
            }
        }
    }

    #[test]
    fn links_resolve_from_nested_names_and_replace_older_ones() {
        let root = tempfile::tempdir().unwrap();
        let (kind, revision) = (RepositoryKind::Dataset, "main".to_owned());
        let repository = Repository { kind, name: "o/n".into(), revision };
        let cached = Cached::new(root.path(), &repository);
        for etag in ["old", "new"] {
            let blob = cached.blob(etag).unwrap();
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::write(&blob, etag).unwrap();
        }
        cached.link("c0ffee", "main/part.parquet", "old").unwrap();
        let path = cached.link("c0ffee", "main/part.parquet", "new").unwrap();
        assert!(path.ends_with("datasets--o--n/snapshots/c0ffee/main/part.parquet"));
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
        cached.remember("refs/pr/1", "c0ffee").unwrap();
        let reference = root.path().join("datasets--o--n/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(reference).unwrap(), "c0ffee");
    }
}
