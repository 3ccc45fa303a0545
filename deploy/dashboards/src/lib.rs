//! Grafana's dashboards and Prometheus' rules, made from the metrics that the programs declare, so
//! that no name in them can drift. It only writes files; what is in them is seen by whoever loads
//! them.

mod board;
mod boards;
mod panel;
mod query;
mod rules;

use std::path::{Path, PathBuf};

pub use board::{Board, Row, Variable};
pub use boards::boards;
pub use panel::{DATASOURCE, Panel, Query};
pub use rules::{Alert, Group, Record, groups};

use rules::{cases, samples};
use telemetry::Metric;

/// All that the four programs declare.
#[must_use]
pub fn metrics() -> Vec<&'static dyn Metric> {
    let programs: [&[&'static dyn Metric]; 4] = [
        actor::metrics::ALL,
        &learner::metrics::ALL,
        weak_server::metrics::ALL,
        coordinator::metrics::ALL,
    ];
    programs.concat()
}

/// Each file that is made, by its path below `deploy/`, with its text.
#[must_use]
pub fn files() -> Vec<(PathBuf, String)> {
    let boards = boards().into_iter().map(|board| {
        let path = Path::new("grafana/dashboards").join(format!("{}.json", board.uid));
        (path, board.to_text())
    });
    let groups = groups();
    let rules = [
        ("prometheus/rules.yml", rules::rules_text(&groups)),
        ("prometheus/rules_test.yml", rules::tests_text(&groups, &cases(), &samples())),
    ];
    boards.chain(rules.map(|(path, text)| (PathBuf::from(path), text))).collect()
}

/// `deploy/` of the source tree that this was built from.
#[must_use]
pub fn deploy_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
