//! The committed files: what they would be if they were made now, and what Grafana needs in them.

use std::collections::BTreeSet;
use std::fs;

use dashboards::{DATASOURCE, deploy_dir, files};
use serde_json::Value;

#[test]
fn committed_files_are_those_that_are_made() {
    let mut made = BTreeSet::new();
    for (path, text) in files() {
        let committed = fs::read_to_string(deploy_dir().join(&path)).unwrap_or_default();
        let same = committed == text;
        assert!(same, "deploy/{} is another: `cargo run -p dashboards` makes it", path.display());
        made.insert(path.file_name().unwrap().to_owned());
    }
    for entry in fs::read_dir(deploy_dir().join("grafana/dashboards")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(made.contains(&name), "nothing makes {}", name.display());
    }
}

fn boards() -> Vec<(String, Value)> {
    let boards = files().into_iter().filter(|(path, _)| path.starts_with("grafana"));
    let read = boards.map(|(path, text)| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_str(&text).unwrap())
    });
    read.collect()
}

/// Left, top, right, bottom.
fn place(panel: &Value) -> [u64; 4] {
    let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
    [at("x"), at("y"), at("x") + at("w"), at("y") + at("h")]
}

fn overlap(a: &Value, b: &Value) -> bool {
    let ([left, top, right, bottom], [l, t, r, b]) = (place(a), place(b));
    left < r && l < right && top < b && t < bottom
}

#[test]
fn every_dashboard_has_what_grafana_needs() {
    let boards = boards();
    let uids: BTreeSet<_> =
        boards.iter().map(|(_, board)| board["uid"].as_str().unwrap()).collect();
    assert_eq!((boards.len(), uids.len()), (4, 4));
    for (name, board) in &boards {
        assert_eq!(board["uid"], **name, "the file is named by its uid");
        assert_eq!(board["schemaVersion"], 42, "{name}");
        assert!(!board["title"].as_str().unwrap().is_empty());
        assert_eq!(board["templating"]["list"][0]["name"], "job", "{name}");
        let panels = board["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{name}: every panel has its own id");
        for (index, panel) in panels.iter().enumerate() {
            assert!(place(panel)[2] <= 24, "{name}: {panel}");
            let beside = panels[..index].iter().find(|other| overlap(panel, other));
            assert_eq!(beside, None, "{name}: {} lies on another", panel["title"]);
            check_panel(panel, name);
        }
    }
    assert_eq!(boards[0].1["panels"][1]["title"], "Handoff success rate", "it comes first");
}

fn check_panel(panel: &Value, board: &str) {
    let title = panel["title"].as_str().unwrap();
    assert!(!title.is_empty(), "{board}");
    if panel["type"] == "row" {
        return;
    }
    let what = format!("{board}: {title}");
    assert!(!panel["description"].as_str().unwrap().is_empty(), "{what}");
    assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{what}");
    assert_eq!(panel["datasource"]["uid"], DATASOURCE, "{what}");
    let targets = panel["targets"].as_array().unwrap();
    assert!(!targets.is_empty(), "{what}");
    for target in targets {
        assert_eq!(target["datasource"]["uid"], DATASOURCE, "{what}");
        assert!(!target["legendFormat"].as_str().unwrap().is_empty(), "{what}");
        let expression = target["expr"].as_str().unwrap();
        assert!(expression.contains("job=\"$job\""), "{what}: of any run: {expression}");
    }
}

#[test]
fn grafana_is_told_of_the_data_source_and_of_the_dashboards() {
    let read = |path: &str| {
        fs::read_to_string(deploy_dir().join("grafana/provisioning").join(path)).unwrap()
    };
    let sources = read("datasources/prometheus.yaml");
    let uids: Vec<_> = sources.lines().filter_map(|l| l.trim().strip_prefix("uid: ")).collect();
    assert_eq!(uids, [DATASOURCE]);
    assert!(read("dashboards/tandem.yaml").contains("path: /var/lib/grafana/dashboards"));
}
