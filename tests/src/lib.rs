//! What the end-to-end tests stand on: the built programs, runs in temporary directories, waiting
//! for predicates, processes that are killed. It tests nothing itself.

mod admin;
mod child;
mod credentials;
mod data;
mod outside;
mod programs;
mod prometheus;
mod run;
mod skip;
mod summary;
mod wait;
mod wall_clock;

pub use admin::{Scraper, admin_address, http_get, log_field, sample, samples, try_metrics};
pub use child::{Alone, die_at, limit_files, run_alone, say, task};
pub use credentials::{Files, TestAuthority};
pub use data::gsm8k_dir;
pub use outside::{Killed, browse, python};
pub use programs::Programs;
pub use prometheus::{Prometheus, promtool, promtool_accepts};
pub use run::{Ended, Run};
pub use skip::say_skipped;
pub use summary::Summary;
pub use wait::{alive, wait_until};
pub use wall_clock::WallClock;
