//! Where a run lives, and whether it is gone on with. What lies in its directory is the business of
//! the programs.

use serde::{Deserialize, Serialize};

choice! {
    /// Whether `launch` goes on with the run that its directory holds.
    Resume {
        /// With `--resume`; without it the directory must be new or empty.
        Asked,
        /// Where there is one; a run that is complete stays as it is, and that is no failure.
        Auto,
    }
}

section! {
    /// Where the run lives.
    Run {
        /// Empty: `runs/NAME-N`, the first that is free.
        dir: String = String::new(),
        resume: Resume = Resume::Asked,
    }
}
