//! The section about logging.

use serde::{Deserialize, Serialize};

choice! {
    /// How log lines look.
    LogFormat {
        Text,
        Json,
    }
}

section! {
    /// Logging.
    Log {
        /// As in `RUST_LOG`.
        filter: String = "info".to_owned(),
        format: LogFormat = LogFormat::Text,
    }
}
