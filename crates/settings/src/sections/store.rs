//! Where a run's files lie for machines that share no disk. How they come there and back is the
//! business of the crate `store`.

use serde::{Deserialize, Serialize};

section! {
    /// A store that all machines of a run reach, for its checkpoints. No secret is a setting:
    /// credentials come from the variables that each store's own tools read.
    Store {
        /// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///DIRECTORY`; empty: none.
        url: String = String::new(),
        /// One request, with all of its answer, must be through by then.
        timeout_ms: u32 = 60_000,
        /// Repeats of what may succeed later, before it is given up.
        retries_max: u32 = 4,
        /// Larger files travel in parts of so many bytes.
        part_bytes: u64 = 16 << 20,
    }
}

/// What `store.url` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlace {
    pub kind: StoreKind,
    /// Empty for files.
    pub bucket: String,
    /// The directory of files; within a bucket, without a slash at either end.
    pub prefix: String,
}

/// Which kinds of stores there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    S3,
    Gcs,
    File,
}

const FORMS: &str = "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///DIRECTORY";

impl Store {
    /// None: there is no store.
    ///
    /// # Errors
    /// An address that is none of a store; the text says why.
    pub fn place(&self) -> Result<Option<StorePlace>, String> {
        let url = self.url.as_str();
        if url.is_empty() {
            return Ok(None);
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace() || "?#%\\".contains(c)) {
            return Err(format!(
                "store.url is {url:?}, which has letters that no key has: {FORMS}"
            ));
        }
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            format!("store.url is `{url}`, which does not say of what kind it is: {FORMS}")
        })?;
        let kind = match scheme {
            "s3" => StoreKind::S3,
            "gs" => StoreKind::Gcs,
            "file" => StoreKind::File,
            _ => return Err(format!("store.url is `{url}`, and {scheme} is unknown: {FORMS}")),
        };
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err("store.url holds credentials: leave them to the environment".to_owned());
        }
        if (kind == StoreKind::File) != bucket.is_empty() {
            return Err(format!("store.url is `{url}`: {FORMS}"));
        }
        let prefix = path.trim_matches('/');
        if prefix.split('/').any(|part| [".", ".."].contains(&part))
            || (prefix.contains("//") || (kind == StoreKind::File && prefix.is_empty()))
        {
            return Err(format!("store.url is `{url}`, which has no such directory: {FORMS}"));
        }
        let root = if kind == StoreKind::File { "/" } else { "" };
        Ok(Some(StorePlace { kind, bucket: bucket.to_owned(), prefix: format!("{root}{prefix}") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<Option<StorePlace>, String> {
        Store { url: url.to_owned(), ..Store::default() }.place()
    }

    #[test]
    fn an_address_says_kind_bucket_and_prefix() {
        let cases = [
            ("s3://runs", StoreKind::S3, "runs", ""),
            ("s3://runs/team/a/", StoreKind::S3, "runs", "team/a"),
            ("gs://runs/a", StoreKind::Gcs, "runs", "a"),
            ("file:///shared/tandem", StoreKind::File, "", "/shared/tandem"),
        ];
        for (url, kind, bucket, prefix) in cases {
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            assert_eq!(place(url), Ok(Some(StorePlace { kind, bucket, prefix })), "{url}");
        }
        assert_eq!(place(""), Ok(None));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let cases = [
            ("runs", "does not say of what kind it is: write s3://BUCKET/PREFIX"),
            ("az://runs/a", "and az is unknown: write s3://"),
            ("s3:///a", "store.url is `s3:///a`: write"),
            ("file://shared/a", "store.url is `file://shared/a`: write"),
            ("file:///", "no such directory"),
            ("s3://runs/a//b", "no such directory"),
            ("file:///a/../b", "no such directory"),
            ("s3://runs/a?x=1", "letters that no key has"),
            ("s3://runs/a b", "letters that no key has"),
        ];
        for (url, words) in cases {
            let fault = place(url).unwrap_err();
            assert!(fault.contains(words), "{url}: {fault}");
        }
        let fault = place("s3://key:secret@runs/a").unwrap_err();
        assert!(fault.contains("leave them to the environment") && !fault.contains("secret"));
    }
}
