//! A real Prometheus, configured as for containers, beside a run with credentials: it finds every
//! process, every expression of every dashboard has a value, and a process that hangs is seen.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Programs, Prometheus, Run, admin_address, wait_until};

use crate::{LIMIT, small};

/// The processes of `small`, and Prometheus' name of the one that will hang.
const PROCESSES: f64 = 5.0;
const HANGS: &str = "actor-1";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// All committed dashboards.
fn dashboards() -> Vec<Value> {
    let files = fs::read_dir(deploy("grafana/dashboards")).unwrap();
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    texts.map(|text| serde_json::from_str(&text).unwrap()).collect()
}

/// As Grafana puts the choice of everything in the place of variables.
fn filled(expression: &str) -> String {
    let filled = expression
        .replace("$job", "tandem")
        .replace("$role", ".*")
        .replace("$name", ".*")
        .replace("$__rate_interval", "2m");
    assert!(!filled.contains('$'), "{expression} has a variable that no dashboard has");
    filled
}

/// Every expression of the panels, with the panel's title.
fn expressions(boards: &[Value]) -> Vec<(String, String)> {
    let panels = boards.iter().flat_map(|board| board["panels"].as_array().unwrap());
    let mut found = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap().to_owned();
            found.push((title, filled(target["expr"].as_str().unwrap())));
        }
    }
    found
}

/// Every `label_values(SELECTOR, LABEL)` of the variables.
fn variables(boards: &[Value]) -> BTreeSet<(String, String)> {
    let lists = boards.iter().flat_map(|board| board["templating"]["list"].as_array().unwrap());
    let parsed = lists.map(|variable| {
        let query = variable["definition"].as_str().unwrap();
        let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).unwrap();
        let (selector, label) = inner.rsplit_once(", ").unwrap();
        (filled(selector), label.to_owned())
    });
    parsed.collect()
}

/// Waits until each expression has had a value that is a number.
fn wait_for_values(prometheus: &Prometheus, mut open: Vec<(String, String)>) {
    let start = Instant::now();
    loop {
        open.retain(|(title, expression)| {
            let values = prometheus.query(expression);
            let values = values.unwrap_or_else(|e| panic!("{title}: {expression}: {e}"));
            values.is_empty() || values.iter().any(|value| value.is_nan())
        });
        if open.is_empty() {
            return;
        }
        assert!(start.elapsed() < LIMIT, "without a value: {open:#?}");
        std::thread::park_timeout(std::time::Duration::from_millis(500));
    }
}

/// Settings of a run with credentials made in this directory, as compose.yaml has them.
fn guarded(dir: &Path) -> [String; 5] {
    let made = Command::new(Programs::get().path("coordinator"))
        .args(["credentials", "--name", "tandem"])
        .arg(dir)
        .output();
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
    let file = |key: &str, name: &str| format!("security.{key}={}", dir.join(name).display());
    [
        file("token_file", "token"),
        file("certificate", "certificate.pem"),
        file("key", "key.pem"),
        file("authority", "authority.pem"),
        "security.peer_name=tandem".to_owned(),
    ]
}

fn value(prometheus: &Prometheus, expression: &str) -> Option<f64> {
    prometheus.query(expression).unwrap().first().copied()
}

/// The expression of a panel with one.
fn of_panel(all: &[(String, String)], title: &str) -> String {
    all.iter().find(|(of, _)| of == title).unwrap().1.clone()
}

#[test]
fn every_expression_has_a_value_in_a_run_and_a_process_that_hangs_is_told_of() {
    let rules = fs::read_to_string(deploy("prometheus/rules.yml")).unwrap();
    // Only a process that does not answer lasts that long; the test waits less.
    assert_eq!(rules.matches("for: 30s").count(), 1);
    let rules = rules.replace("for: 30s", "for: 1s");
    let often = ["eval.every_steps=4", "eval.every_problems=8"];
    let often: Vec<_> = often.into_iter().flat_map(|pair| ["--set", pair]).collect();
    let credentials = tempfile::tempdir().unwrap();
    let guarded = guarded(credentials.path());
    let guarded: Vec<&str> = guarded.iter().flat_map(|pair| ["--set", pair]).collect();
    let more = [["--steps", "5000"].as_slice(), &often, &guarded].concat();
    let run = Run::start(&small(&more));
    let admin = wait_until("an admin address", LIMIT, || admin_address(&run.log("coordinator")));
    let configuration = fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
    let configuration = configuration
        .replace("coordinator:9100", &admin)
        .replace("/run/tandem", credentials.path().to_str().unwrap());
    let prometheus = Prometheus::start("a live Prometheus", &configuration, &rules);
    let Some(prometheus) = prometheus else { return };

    let up = || value(&prometheus, r#"sum(up{job="tandem"})"#) == Some(PROCESSES);
    wait_until("all processes under Prometheus", LIMIT, || up().then_some(()));
    let boards = dashboards();
    let all = expressions(&boards);
    assert!((boards.len(), all.len() > 100) == (4, true), "{} of {}", all.len(), boards.len());
    wait_for_values(&prometheus, all.clone());
    for (selector, label) in variables(&boards) {
        let values = prometheus.label_values(&label, &selector).unwrap();
        assert!(!values.is_empty(), "{label} of {selector}");
    }
    assert_eq!(prometheus.broken_rules().unwrap(), Vec::<String>::new());

    let (down, alerts) = (of_panel(&all, "Down"), of_panel(&all, "Alerts"));
    assert_eq!(value(&prometheus, &down), Some(0.0));
    assert_eq!(value(&prometheus, &alerts), Some(0.0));
    run.signal_child(HANGS, Signal::SIGSTOP);
    let sees = |what: &str, expression: &str, expected: Option<f64>| {
        wait_until(what, LIMIT, || (value(&prometheus, expression) == expected).then_some(()));
    };
    let firing = format!(
        r#"ALERTS{{alertname="TandemProcessDown",alertstate="firing",name="{HANGS}",role="actor"}}"#
    );
    sees("the process to be down", &down, Some(1.0));
    sees("the alert", &firing, Some(1.0));
    sees("the alert on the dashboard", &alerts, Some(1.0));
    run.signal_child(HANGS, Signal::SIGCONT);
    sees("the process to be back", &down, Some(0.0));
    sees("the end of the alert", &firing, None);
}
