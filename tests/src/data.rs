//! Where the real GSM8K files are, if they are anywhere.

use std::path::{Path, PathBuf};

use crate::skip::say_skipped;

/// The directory that holds `train.jsonl` and `test.jsonl`: `TANDEM_TEST_GSM8K`, or
/// `shared/data/gsm8k` beside the project. Says loudly what is skipped where neither exists.
#[must_use]
pub fn gsm8k_dir(test: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gsm8k");
    let named = std::env::var_os("TANDEM_TEST_GSM8K").map(PathBuf::from);
    let found = named.into_iter().chain([beside]).find(|dir| dir.join("train.jsonl").is_file());
    if found.is_none() {
        say_skipped(test, "no GSM8K files, set TANDEM_TEST_GSM8K to their directory");
    }
    found
}
