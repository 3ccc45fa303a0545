//! What the hub calls a file's etag, computed from the file: SHA-256 for large ones, git's own
//! hash of a blob for the others.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

const PIECE_BYTES: usize = 1 << 20;

/// Which hash an etag is, by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sha256,
    /// SHA-1 of `blob SIZE\0` and the bytes.
    Git,
}

impl Kind {
    /// `None` for an etag that is no hash that is known here, as mirrors may send.
    pub(super) fn of(etag: &str) -> Option<Self> {
        let is_hex = etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (is_hex, etag.len()) {
            (true, 64) => Some(Self::Sha256),
            (true, 40) => Some(Self::Git),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Git => "git hash",
        }
    }

    /// In hexadecimal digits.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn digest(self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        match self {
            Self::Sha256 => read_through(&mut file, Sha256::new()),
            Self::Git => {
                let size = file.metadata()?.len();
                read_through(&mut file, Sha1::new_with_prefix(format!("blob {size}\0")))
            }
        }
    }
}

fn read_through(file: &mut File, mut hash: impl Digest) -> io::Result<String> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            let digits = hash.finalize();
            return Ok(digits.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&piece[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_sha256sum_and_git() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        // printf 'hello\n' | sha256sum; printf 'hello\n' | git hash-object --stdin
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(Kind::of(sha256).unwrap().digest(file.path()).unwrap(), sha256);
        assert_eq!(Kind::of(git).unwrap().digest(file.path()).unwrap(), git);
        assert_eq!(Kind::of("\"5891\""), None);
        assert_eq!(Kind::of(&"g".repeat(40)), None);
    }
}
