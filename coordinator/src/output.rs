//! Results on standard output. A reader that has gone away, as `head` does, is no error: what a
//! command leaves in files does not depend on it.

use std::io::{self, Write};

/// One line, or several.
pub fn say(text: &str) {
    // Nothing useful is left to do where nobody reads.
    let _ = writeln!(io::stdout().lock(), "{text}");
}
