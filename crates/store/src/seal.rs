//! `state.json` as far as whoever moves a checkpoint must understand it: whose it is, which files
//! belong to it, and the hash that says that it is as it was written. All else in it is the
//! learner's.

use std::collections::BTreeMap;

use serde::Deserialize;
use types::{Hash, is_file_name};

/// With it a checkpoint is whole: it comes last and goes first.
pub const STATE: &str = "state.json";
/// Stands for the file's own hash while that hash is taken.
pub const BLANK_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a checkpoint's `state.json` says of its files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Sealed {
    /// In hexadecimal digits.
    pub(crate) run: String,
    pub(crate) step: u32,
    /// BLAKE3 of every other file.
    pub(crate) hashes: BTreeMap<String, String>,
    own_hash: String,
}

/// The hash of such a text, in which `own` stands where the hash belongs.
#[must_use]
pub fn sealed_hash(text: &str, own: &str) -> String {
    Hash::of(text.replace(own, BLANK_HASH).as_bytes()).to_string()
}

impl Sealed {
    /// # Errors
    /// Says what is wrong: no such text, one that has changed, names that are no files.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|fault| fault.to_string())?;
        let sealed: Self = serde_json::from_str(text).map_err(|fault| fault.to_string())?;
        if sealed.own_hash.len() != BLANK_HASH.len() {
            return Err("it has no hash of its own".to_owned());
        }
        let found = sealed_hash(text, &sealed.own_hash);
        if found != sealed.own_hash {
            return Err(format!("its hash is {found} where it says {}", sealed.own_hash));
        }
        match sealed.hashes.keys().find(|name| !is_file_name(name) || *name == STATE) {
            Some(name) => Err(format!("it names {name:?}, which is no file beside it")),
            None => Ok(sealed),
        }
    }
}

#[cfg(test)]
pub(crate) fn sealed_text(run: u64, step: u32, hashes: &[(&str, String)]) -> String {
    let hashes: BTreeMap<&str, &String> = hashes.iter().map(|(name, hash)| (*name, hash)).collect();
    let run = format!("{run:016x}");
    let text =
        serde_json::json!({ "run": run, "step": step, "hashes": hashes, "own_hash": BLANK_HASH });
    let text = text.to_string();
    let hash = sealed_hash(&text, BLANK_HASH);
    text.replace(BLANK_HASH, &hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_vouches_for_itself() {
        let text = sealed_text(7, 4, &[("config.json", "ab".to_owned())]);
        let sealed = Sealed::read(text.as_bytes()).unwrap();
        assert_eq!((sealed.run.as_str(), sealed.step), ("0000000000000007", 4));
        assert_eq!(sealed.hashes["config.json"], "ab");
        let changed = text.replace("\"step\":4", "\"step\":5");
        let fault = Sealed::read(changed.as_bytes()).unwrap_err();
        assert!(fault.starts_with("its hash is ") && fault.contains(&sealed.own_hash), "{fault}");
        let bare = text.replace(&sealed.own_hash, "");
        assert_eq!(Sealed::read(bare.as_bytes()).unwrap_err(), "it has no hash of its own");
        assert!(Sealed::read(&text.as_bytes()[..40]).is_err());
        assert!(Sealed::read(&[0xff]).is_err());
    }

    #[test]
    fn row_21_no_name_leads_out_of_the_directory() {
        for name in ["../secret", "/etc/passwd", "a/b", "..", "", "state.json"] {
            let text = sealed_text(7, 4, &[(name, "ab".to_owned())]);
            let fault = Sealed::read(text.as_bytes()).unwrap_err();
            assert!(fault.contains("which is no file beside it"), "{name}: {fault}");
        }
    }
}
