//! `summary.json`, by the design's names.

use std::path::Path;

use serde_json::Value;

/// What a finished run says of itself.
#[derive(Clone, Debug)]
pub struct Summary(Value);

impl Summary {
    /// # Panics
    /// No such file, or not JSON.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path);
        let text = text.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(serde_json::from_str(&text).expect("summary.json is JSON"))
    }

    /// The number at a path of keys separated by `/`, for instance `after/jargon_rate`.
    ///
    /// # Panics
    /// No number there.
    #[must_use]
    pub fn number(&self, path: &str) -> f64 {
        let found = self.at(path).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no number at {path} in {}", self.0))
    }

    /// # Panics
    /// The path leads nowhere.
    #[must_use]
    pub fn is_null(&self, path: &str) -> bool {
        self.at(path).unwrap_or_else(|| panic!("no {path} in {}", self.0)).is_null()
    }

    fn at(&self, path: &str) -> Option<&Value> {
        path.split('/').try_fold(&self.0, |value, key| value.get(key))
    }

    /// Weak tokens among all generated ones.
    #[must_use]
    pub fn weak_share(&self) -> f64 {
        let weak = self.number("tokens/weak");
        weak / (weak + self.number("tokens/strong"))
    }
}
