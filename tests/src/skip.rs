//! Saying that something was not checked, where a person sees it.

use std::io::Write;

/// Tests that pass have what they print captured; this goes around the capture.
pub fn say_skipped(what: &str, way_out: &str) {
    // Where nobody can read it there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {way_out}");
}
