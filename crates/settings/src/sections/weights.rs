//! How versions of the strong model's weights come from the learner to the actors.

use serde::{Deserialize, Serialize};

section! {
    /// The handing over of weights.
    Weights {
        /// Where learner, coordinator and actors that share a machine hand them over as files:
        /// `auto` is the run directory, empty: always as streams. Whoever does not find the file
        /// takes the stream.
        shared_dir: String = "auto".to_owned(),
        /// Versions are put into the run's store before they are announced, and actors take them from
        /// there where they find no file: for so many actors that the coordinator's link is too slow.
        /// Whoever does not find one there takes the stream.
        store: bool = false,
    }
}
