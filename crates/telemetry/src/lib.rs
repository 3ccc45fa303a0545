//! What a process tells the outside: log lines, metrics, health and readiness on one admin port.
//! It declares no metric of its own but the process's; each binary's `metrics.rs` does that.

mod admin;
mod declare;
mod disk;
mod exporter;
mod health;
mod logging;
mod readiness;

pub use admin::{AdminServer, AdminState, JsonRoute};
pub use declare::{
    Counter, Dimension, Gauge, Histogram, LabelPair, Metric, NameFault, check_name, describe,
};
pub use disk::DiskWatch;
pub use exporter::{Exporter, SUFFIX_BUCKETS};
pub use health::Health;
pub use logging::{LogFormat, init_file_logging, init_logging};
pub use readiness::Readiness;
pub use trace::Exporting;
