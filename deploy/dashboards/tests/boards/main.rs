//! Dashboards and rules against the metrics that are declared, against what is committed, and
//! against Prometheus' own tool. What a live run answers to them is tested in `tests/e2e`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod files;
mod names;
mod promql;
mod promtool;
