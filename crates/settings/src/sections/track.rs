//! Where a run's numbers go besides its own directory. Sending them is the coordinator's.

use serde::{Deserialize, Serialize};

section! {
    /// Trackers of experiments. A run never waits for them and never fails by them.
    Track {
        /// Event files for TensorBoard: `auto` is `tensorboard/` in the run directory, otherwise a
        /// directory in which the run makes one of its own; empty: none.
        tensorboard: String = String::new(),
        /// Where an MLflow server is, like http://127.0.0.1:5000; empty: none. Its token, if it has
        /// one, is read from MLFLOW_TRACKING_TOKEN alone.
        mlflow: String = String::new(),
        /// The MLflow experiment that the run is one of.
        experiment: String = "tandem".to_owned(),
        /// Steps and evaluations that wait for one tracker; more are dropped and counted.
        queue_records: u32 = 1_000,
        /// One request to a server.
        request_timeout_ms: u32 = 10_000,
        /// At the end of the run, what is left is sent within this time or dropped.
        finish_timeout_ms: u32 = 3_000,
    }
}
