//! Every declared metric is on a dashboard, and every name that is used anywhere is declared.

use std::collections::{BTreeMap, BTreeSet};

use dashboards::{Group, boards, deploy_dir, files, groups, metrics};
use telemetry::Exporter;

use crate::promql::series_in;

/// Of Prometheus itself; those of `metrics-process` begin with `process_`, and the live run in
/// `tests/e2e` shows that they exist.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// Every declared name, and whether it is a histogram's.
fn declared() -> BTreeMap<String, bool> {
    let (recorder, exporter) = Exporter::build(&[]).unwrap();
    ::metrics::with_local_recorder(&recorder, || telemetry::describe(&metrics()));
    let page = exporter.render();
    let is_histogram = |name: &str| page.contains(&format!("# TYPE {name} histogram\n"));
    metrics().iter().map(|m| (m.name().to_owned(), is_histogram(m.name()))).collect()
}

fn records() -> BTreeMap<&'static str, String> {
    let records = groups().into_iter().flat_map(|group| group.records);
    records.map(|record| (record.name, record.expression)).collect()
}

/// The metric that a series is of, if it is of a declared one.
fn metric_of(series: &str, declared: &BTreeMap<String, bool>) -> Option<String> {
    if declared.get(series) == Some(&false) {
        return Some(series.to_owned());
    }
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| series.strip_suffix(part));
    let mut histograms = parts.filter(|name| declared.get(*name) == Some(&true));
    histograms.next().map(str::to_owned)
}

fn check_known(used: &BTreeSet<String>, place: &str) {
    let (declared, records) = (declared(), records());
    for name in used {
        let known = metric_of(name, &declared).is_some()
            || records.contains_key(name.as_str())
            || OF_PROMETHEUS.contains(&name.as_str())
            || name.starts_with("process_");
        assert!(known, "{place} asks for {name}, which nobody declares");
    }
}

fn on_boards() -> BTreeSet<String> {
    let panels = boards().into_iter().flat_map(|board| board.rows).flat_map(|row| row.panels);
    let queries = panels.flat_map(|panel| panel.queries);
    queries.flat_map(|query| series_in(&query.expression)).collect()
}

#[test]
fn every_declared_metric_is_on_a_dashboard() {
    let (declared, records) = (declared(), records());
    let mut used = on_boards();
    let behind: Vec<_> =
        used.iter().filter_map(|name| records.get(name.as_str())).map(|e| series_in(e)).collect();
    used.extend(behind.into_iter().flatten());
    let shown: BTreeSet<_> = used.iter().filter_map(|name| metric_of(name, &declared)).collect();
    let missing: Vec<_> = declared.keys().filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "on no dashboard: {missing:?}");
    assert!(declared.len() > 80, "{}", declared.len());
}

#[test]
fn dashboards_and_rules_ask_for_nothing_that_is_not_declared() {
    check_known(&on_boards(), "a dashboard");
    for board in boards() {
        for variable in &board.variables {
            check_known(&series_in(&variable.of), board.uid);
        }
    }
    for Group { name, records, alerts } in groups() {
        let expressions = records.iter().map(|record| &record.expression);
        for expression in expressions.chain(alerts.iter().map(|alert| &alert.expression)) {
            check_known(&series_in(expression), name);
        }
    }
}

/// Everything in a text that looks like a name of ours.
fn names_in_text(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | ':'));
    let ours = words.map(|word| word.trim_end_matches(':')).filter(|word| {
        word.starts_with("tandem_") || word.contains(":tandem_") || word.starts_with("process_")
    });
    ours.map(str::to_owned).collect()
}

#[test]
fn files_that_people_write_name_nothing_that_is_not_declared() {
    let deploy = deploy_dir();
    let written =
        ["prometheus/prometheus.yml", "prometheus/prometheus-local.yml", "../docs/observe.md"];
    for path in written {
        check_known(&names_in_text(&std::fs::read_to_string(deploy.join(path)).unwrap()), path);
    }
    let (_, cases) =
        files().into_iter().find(|(path, _)| path.ends_with("rules_test.yml")).unwrap();
    let names = names_in_text(&cases);
    assert!(names.len() > 10, "{names:?}");
    check_known(&names, "rules_test.yml");
}

#[test]
fn every_alert_has_a_case_and_is_in_the_documentation() {
    let (_, cases) =
        files().into_iter().find(|(path, _)| path.ends_with("rules_test.yml")).unwrap();
    let page = std::fs::read_to_string(deploy_dir().join("../docs/observe.md")).unwrap();
    for alert in groups().iter().flat_map(|group| &group.alerts) {
        let (name, case) = (alert.name, format!("alertname: {}\n        exp_alerts:", alert.name));
        assert!(cases.contains(&case), "no case raises {name}");
        assert!(page.contains(&format!("`{name}`")), "docs/observe.md does not name {name}");
    }
}
