//! Names that come from outside and become names of files: none may lead out of its directory.

use std::path::{Component, Path};

/// The longest name that common file systems have.
const NAME_BYTES_MAX: usize = 255;

/// Whether a text names a file inside a directory and nothing else: no path, no way up, no end.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    let foreign = |c: char| matches!(c, '/' | '\\') || c.is_control();
    let mut components = Path::new(name).components();
    let single =
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    single && name.len() <= NAME_BYTES_MAX && !name.contains(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        for good in ["a", "model-00001-of-00002.safetensors", "..a", "a..", "grün", ".hidden"] {
            assert!(is_file_name(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in
            ["", ".", "..", "/", "/a", "a/", "a/b", "../a", "a/..", "a\\b", "a\0b", "a\nb", &long]
        {
            assert!(!is_file_name(bad), "{bad:?}");
        }
    }
}
