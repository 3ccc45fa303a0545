//! Rules and their cases as the YAML that Prometheus and promtool read. Every text in it is a block
//! or a JSON string, so that none needs an escape of YAML's.

use std::collections::BTreeMap;

use serde_json::json;

use super::cases::{Case, Sample};
use super::{Alert, Group, Record};

const MADE_BY: &str =
    "# Made by `cargo run -p dashboards`; edit deploy/dashboards/src/rules/ instead.\n";

/// The rule file.
pub(crate) fn rules_text(groups: &[Group]) -> String {
    let mut text = format!("{MADE_BY}groups:\n");
    for group in groups {
        text.push_str(&format!("  - name: {}\n    rules:\n", group.name));
        for Record { name, expression } in &group.records {
            text.push_str(&format!("      - record: {name}\n"));
            text.push_str(&block("        expr: ", expression));
        }
        for alert in &group.alerts {
            text.push_str(&format!("      - alert: {}\n", alert.name));
            text.push_str(&block("        expr: ", &alert.expression));
            text.push_str(&format!("        for: {}\n", alert.lasts));
            text.push_str(&format!("        labels:\n          severity: {}\n", alert.severity));
            text.push_str("        annotations:\n");
            text.push_str(&block("          summary: ", alert.summary));
            text.push_str(&block("          description: ", alert.description));
        }
    }
    text
}

/// A text of any characters, its lines below the key.
fn block(key: &str, value: &str) -> String {
    let indent = key.len() - key.trim_start().len() + 2;
    let lines = value.lines().map(|line| format!("{:indent$}{line}\n", ""));
    format!("{key}|-\n{}", lines.collect::<String>())
}

/// What promtool tries the rules with.
pub(crate) fn tests_text(groups: &[Group], cases: &[Case], samples: &[Sample]) -> String {
    let mut text =
        format!("{MADE_BY}rule_files:\n  - rules.yml\nevaluation_interval: 1m\ntests:\n");
    let alerts: BTreeMap<_, _> =
        groups.iter().flat_map(|group| &group.alerts).map(|alert| (alert.name, alert)).collect();
    for case in cases {
        text.push_str(&series(&case.series));
        text.push_str("    alert_rule_test:\n");
        text.push_str(&moment(case.quiet_at, case.alert));
        text.push_str(&moment(case.raised_at, case.alert));
        if let Some(alert) = alerts.get(case.alert) {
            text.push_str(&raised(alert, case));
        }
    }
    for sample in samples {
        text.push_str(&series(&sample.series));
        text.push_str("    promql_expr_test:\n");
        for (at, value) in sample.values {
            let name = sample.record;
            let labels = format!(r#"{name}{{{}}}"#, sample.labels);
            text.push_str(&format!("      - expr: {}\n        eval_time: {at}\n", json!(name)));
            text.push_str(&format!(
                "        exp_samples:\n          - labels: {}\n",
                json!(labels)
            ));
            text.push_str(&format!("            value: {value}\n"));
        }
    }
    text
}

fn series(all: &[(String, &str)]) -> String {
    let lines = all.iter().map(|(name, values)| {
        format!("      - series: {}\n        values: {}\n", json!(name), json!(values))
    });
    format!("  - interval: 1m\n    input_series:\n{}", lines.collect::<String>())
}

fn moment(at: &str, alert: &str) -> String {
    format!("      - eval_time: {at}\n        alertname: {alert}\n")
}

fn raised(alert: &Alert, case: &Case) -> String {
    let filled = |text: &str| {
        let fill = |text: String, (label, value): &(&str, &str)| {
            text.replace(&format!("{{{{ $labels.{label} }}}}"), value)
        };
        case.labels.iter().fold(text.to_owned(), fill)
    };
    let severity = [("severity", alert.severity)];
    let labels: BTreeMap<_, _> = case.labels.iter().copied().chain(severity).collect();
    let annotations = BTreeMap::from([
        ("summary", filled(alert.summary)),
        ("description", filled(alert.description)),
    ]);
    format!(
        "        exp_alerts:\n          - exp_labels: {}\n            exp_annotations: {}\n",
        json!(labels),
        json!(annotations)
    )
}
