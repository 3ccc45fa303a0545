//! The dashboards, each in a file of its own.

mod fleet;
mod serving;
mod tandem;
mod training;

use crate::board::Board;

/// All of them; the first is the one to open.
#[must_use]
pub fn boards() -> Vec<Board> {
    vec![tandem::board(), training::board(), serving::board(), fleet::board()]
}
