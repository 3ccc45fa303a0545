//! Prometheus' own tool over rules, their cases and the configurations.

use std::fs;
use std::path::Path;

use dashboards::{deploy_dir, files};
use tempfile::TempDir;
use tests::promtool_accepts;

/// Rules and cases as they are made now, with the written configurations beside them.
fn prometheus_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files() {
        if path.starts_with("prometheus") {
            fs::write(dir.path().join(path.file_name().unwrap()), text).unwrap();
        }
    }
    // promtool looks whether the files that a configuration names are there.
    for secret in ["token", "authority.pem"] {
        fs::write(dir.path().join(secret), "").unwrap();
    }
    for name in ["prometheus.yml", "prometheus-local.yml"] {
        let text = fs::read_to_string(deploy_dir().join("prometheus").join(name)).unwrap();
        let here = dir.path().to_str().unwrap();
        fs::write(dir.path().join(name), text.replace("/run/tandem", here)).unwrap();
    }
    dir
}

fn check(args: &[&str], file: &Path) {
    let path = file.to_str().unwrap();
    let args: Vec<&str> = args.iter().copied().chain([path]).collect();
    promtool_accepts(&args).unwrap_or_else(|said| panic!("promtool {}: {said}", args.join(" ")));
}

#[test]
fn promtool_accepts_the_rules() {
    let dir = prometheus_dir();
    check(&["check", "rules", "--lint-fatal"], &dir.path().join("rules.yml"));
}

#[test]
fn every_alert_is_quiet_and_raised_when_it_should_be() {
    let dir = prometheus_dir();
    check(&["test", "rules"], &dir.path().join("rules_test.yml"));
}

#[test]
fn promtool_accepts_the_configurations() {
    let dir = prometheus_dir();
    for name in ["prometheus.yml", "prometheus-local.yml"] {
        check(&["check", "config", "--lint-fatal"], &dir.path().join(name));
    }
}
