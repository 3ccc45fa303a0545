//! Versions as files, for those on the same machine as whoever publishes: the bytes are written once
//! and read by each. Nothing here is trusted: who takes a file checks it against its manifest, and
//! fetches the version over the wire where it is not there or is something else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use types::{Hash, WeightManifest};

/// Before the name of a file that is being written.
const UNFINISHED: &str = ".unfinished-";

/// A directory of one run that only its user may look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    dir: PathBuf,
}

impl WeightFiles {
    /// The directory is made with the first file.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a version lies.
    #[must_use]
    pub fn path(&self, manifest: &WeightManifest) -> PathBuf {
        self.dir.join(manifest.file_name())
    }

    /// Puts a version there, whole or not at all. It need not survive the machine.
    ///
    /// # Errors
    /// A directory or file that cannot be written; nothing is left then.
    pub fn offer(&self, manifest: &WeightManifest, bytes: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let path = self.path(manifest);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = self.dir.join(format!("{UNFINISHED}{name}"));
        let written = write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// The bytes of a version, if they are those of its manifest.
    ///
    /// # Errors
    /// No such file, or one that is something else.
    pub fn take(&self, manifest: &WeightManifest) -> io::Result<Vec<u8>> {
        let path = self.path(manifest);
        // A link would lead elsewhere, and a pipe would be waited for.
        let found = fs::symlink_metadata(&path)?;
        if !found.is_file() || found.len() != manifest.bytes {
            return Err(other("is another file"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(manifest.bytes).unwrap_or(0));
        File::open(&path)?.take(manifest.bytes).read_to_end(&mut bytes)?;
        if Hash::of(&bytes) != manifest.hash {
            return Err(other("has other bytes"));
        }
        Ok(bytes)
    }

    /// Removes what is none of these versions; the directory too, where that is all.
    ///
    /// # Errors
    /// A directory that cannot be read, or a file that cannot be removed.
    pub fn retain<'a>(&self, kept: impl IntoIterator<Item = &'a WeightManifest>) -> io::Result<()> {
        let kept: Vec<PathBuf> = kept.into_iter().map(|manifest| self.path(manifest)).collect();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        if kept.is_empty() { fs::remove_dir(&self.dir) } else { Ok(()) }
    }

    /// Takes an offer back.
    pub fn withdraw(&self, manifest: &WeightManifest) {
        // What stays is removed with the next version that is stored.
        let _ = fs::remove_file(self.path(manifest));
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

fn other(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use types::PolicyVersion;

    use super::*;

    fn version(step: u32, bytes: &[u8]) -> WeightManifest {
        let (bytes, hash) = (bytes.len() as u64, Hash::of(bytes));
        WeightManifest { version: PolicyVersion::new(1, step), tensors: Vec::new(), bytes, hash }
    }

    fn names(files: &WeightFiles) -> Vec<String> {
        let entries = fs::read_dir(files.dir()).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_offered_is_taken_and_only_its_user_may_read_it() {
        let root = tempfile::tempdir().unwrap();
        let files = WeightFiles::new(root.path().join("run/weights"));
        let (bytes, manifest) = (b"weights", version(4, b"weights"));
        assert_eq!(files.take(&manifest).unwrap_err().kind(), ErrorKind::NotFound);
        // What an earlier process left half-written is in nobody's way.
        fs::create_dir_all(files.dir()).unwrap();
        let name = format!("g1s4-{}.safetensors", &manifest.hash.to_string()[..16]);
        fs::write(files.dir().join(format!(".unfinished-{name}")), "wei").unwrap();
        fs::remove_dir_all(files.dir()).unwrap();
        for _ in 0..2 {
            files.offer(&manifest, bytes).unwrap();
            assert_eq!(names(&files), [name.as_str()]);
            assert_eq!(files.take(&manifest).unwrap(), bytes);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(files.dir()), mode(&files.path(&manifest))), (0o700, 0o600));
        files.withdraw(&manifest);
        assert!(files.take(&manifest).is_err());
    }

    #[test]
    fn row_16_a_file_that_is_not_its_manifests_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let files = WeightFiles::new(root.path().to_owned());
        let (bytes, manifest) = (b"weights", version(4, b"weights"));
        files.offer(&manifest, bytes).unwrap();
        let path = files.path(&manifest);
        for (damage, words) in [
            (b"weightz".as_slice(), "has other bytes"),
            (b"weight", "is another file"),
            (b"weights and more", "is another file"),
        ] {
            fs::write(&path, damage).unwrap();
            assert_eq!(files.take(&manifest).unwrap_err().to_string(), words);
        }
        let long = WeightManifest { bytes: u64::MAX, ..manifest.clone() };
        assert!(files.take(&long).is_err(), "nothing is reserved for it");
    }

    #[test]
    fn row_21_nothing_outside_of_the_directory_is_read_or_written() {
        let root = tempfile::tempdir().unwrap();
        let files = WeightFiles::new(root.path().join("weights"));
        let outside = root.path().join("outside");
        fs::write(&outside, "weights").unwrap();
        let manifest = version(4, b"weights");
        fs::create_dir(files.dir()).unwrap();
        let path = files.path(&manifest);
        symlink(&outside, &path).unwrap();
        assert_eq!(files.take(&manifest).unwrap_err().to_string(), "is another file");
        let unfinished = path.file_name().unwrap().to_str().unwrap();
        symlink(&outside, files.dir().join(format!(".unfinished-{unfinished}"))).unwrap();
        files.offer(&manifest, b"weights").unwrap();
        fs::write(files.path(&manifest), "changed").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"weights", "links were replaced, not followed");
        for step in [0, u32::MAX] {
            let path = files.path(&version(step, b""));
            assert_eq!(path.parent(), Some(files.dir()));
            assert!(types::is_file_name(path.file_name().unwrap().to_str().unwrap()));
        }
    }

    #[test]
    fn what_is_not_kept_goes_and_the_directory_at_last() {
        let root = tempfile::tempdir().unwrap();
        let files = WeightFiles::new(root.path().join("weights"));
        files.retain([]).unwrap();
        let versions = [1, 2, 3].map(|step| version(step, &[step as u8]));
        for (manifest, step) in versions.iter().zip(1..) {
            files.offer(manifest, &[step]).unwrap();
        }
        fs::write(files.dir().join(".unfinished-x"), "x").unwrap();
        files.retain(&versions[1..]).unwrap();
        let left: Vec<PathBuf> = versions[1..].iter().map(|kept| files.path(kept)).collect();
        assert_eq!(names(&files).len(), 2);
        assert!(left.iter().all(|path| path.is_file()));
        files.retain([]).unwrap();
        assert!(!files.dir().exists());
    }
}
