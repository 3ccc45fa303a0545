//! Who depends on whom, from `cargo metadata`, and the directions that are allowed. Only normal
//! dependencies count: tests and build scripts are not linked into a program.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;

use cargo_metadata::DependencyKind::Development;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::tree;

/// Each package of ours and those of ours that it may name. The tests may name all.
const DIRECTIONS: [(&str, &[&str]); 19] = [
    ("types", &[]),
    ("device", &[]),
    ("runtime", &[]),
    ("trace", &[]),
    ("security", &["settings"]),
    ("telemetry", &["security", "trace"]),
    ("tandem", &["types"]),
    ("miniature", &["types"]),
    ("model", &["types", "miniature", "device"]),
    ("grpo", &["types", "model", "device"]),
    ("proto", &["types", "security", "trace"]),
    ("settings", &["types", "tandem"]),
    ("store", &["types", "settings", "runtime"]),
    ("task", &["types", "tandem", "miniature", "device", "model", "settings"]),
    ("member", &["types", "proto", "settings", "runtime", "security", "telemetry"]),
    ("coordinator", COORDINATOR),
    ("actor", ENGINES),
    ("weak-server", ENGINES),
    ("dashboards", &["actor", "coordinator", "learner", "telemetry", "weak-server"]),
];

const COORDINATOR: &[&str] = &[
    "types",
    "tandem",
    "miniature",
    "proto",
    "settings",
    "runtime",
    "security",
    "store",
    "telemetry",
];

const ENGINES: &[&str] = &[
    "types",
    "device",
    "tandem",
    "miniature",
    "model",
    "proto",
    "settings",
    "task",
    "member",
    "runtime",
    "security",
    "store",
    "telemetry",
];

/// What the learner may name beyond the other programs with an engine.
const LEARNER: (&str, &[&str]) = ("learner", &["grpo", "trace"]);

const UNCHECKED: &str = "tests";

/// Packages and what they must not reach, over any number of steps. `candle` stands for
/// `candle-core`, `candle-nn` and so on.
const MUST_NOT_REACH: [(&str, &[&str]); 13] = [
    ("types", &["tokio", "tonic", "candle", "metrics", "serde"]),
    ("tandem", &["tokio", "tonic", "candle", "metrics"]),
    ("device", &["tokio", "tonic", "metrics"]),
    ("model", &["tokio", "tonic", "metrics"]),
    ("grpo", &["tokio", "tonic", "metrics"]),
    ("miniature", &["tokio", "tonic", "candle", "metrics"]),
    ("settings", &["tokio", "tonic", "candle", "metrics"]),
    ("security", &["tonic", "candle", "metrics"]),
    ("proto", &["candle", "metrics"]),
    ("runtime", &["tonic", "candle", "metrics"]),
    ("store", &["tonic", "candle", "metrics"]),
    ("telemetry", &["tonic", "candle"]),
    ("coordinator", &["candle"]),
];

/// Crashes at named points cost something where they are built in, and tests alone have use for
/// them.
const FAILPOINTS: (&str, &str) = ("fail", "failpoints");

/// Package names and the names of their normal dependencies.
pub(crate) struct Graph {
    ours: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
    /// Features of other packages that ours turn on in programs, with who does.
    features: BTreeSet<(String, String, String)>,
}

impl Graph {
    pub(crate) fn of_workspace() -> Self {
        let metadata = MetadataCommand::new()
            .manifest_path(tree::root().join("Cargo.toml"))
            // Packages for other platforms need not be on this machine.
            .other_options(vec!["--filter-platform".to_owned(), host_triple()])
            .exec()
            .expect("cargo metadata describes the workspace");
        Self::from_metadata(&metadata)
    }

    fn from_metadata(metadata: &Metadata) -> Self {
        let name_of = |id| metadata[id].name.to_string();
        let resolve = metadata.resolve.as_ref().expect("metadata was asked for with dependencies");
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &resolve.nodes {
            let normal = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            });
            // Tests turn features on; what holds is said of programs without.
            let declared = &metadata[&node.id].dependencies;
            let is_ours = metadata.workspace_members.contains(&node.id);
            let optional =
                |name: &String| is_ours && declared.iter().any(|d| d.name == *name && d.optional);
            let names = normal.map(|dependency| name_of(&dependency.pkg));
            let names = names.filter(|name| !optional(name));
            edges.entry(name_of(&node.id)).or_default().extend(names);
        }
        let mut features = BTreeSet::new();
        for package in metadata.workspace_packages() {
            for dependency in package.dependencies.iter().filter(|d| d.kind != Development) {
                for feature in &dependency.features {
                    let (by, of) = (package.name.to_string(), dependency.name.clone());
                    features.insert((by, of, feature.clone()));
                }
            }
        }
        Self { ours: metadata.workspace_members.iter().map(name_of).collect(), edges, features }
    }

    /// Packages that would build failpoints into programs.
    pub(crate) fn failpoints_in_programs(&self) -> Vec<String> {
        let built_in = self.features.iter().filter(|(_, of, on)| (&**of, &**on) == FAILPOINTS);
        built_in.map(|(by, of, on)| format!("{by} builds {of}/{on} into programs")).collect()
    }

    /// Packages of ours that name one of ours that they may not, or that no rule speaks of.
    pub(crate) fn wrong_directions(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for package in self.ours.iter().filter(|package| *package != UNCHECKED) {
            let Some(allowed) = allowed_for(package) else {
                faults.push(format!("{package} has no line in the table of directions"));
                continue;
            };
            let named = self.edges.get(package).into_iter().flatten();
            let wrong = named
                .filter(|name| self.ours.contains(*name))
                .filter(|name| !allowed.contains(&name.as_str()));
            faults.extend(wrong.map(|name| format!("{package} may not depend on {name}")));
        }
        faults
    }

    /// Packages that reach what they must not, with the path on which they do.
    pub(crate) fn forbidden_reaches(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (package, forbidden) in MUST_NOT_REACH {
            if !self.ours.contains(package) {
                faults.push(format!("{package} is no package of the workspace"));
            }
            for path in self.paths_from(package) {
                let end = path.last().expect("a path has an end");
                if forbidden.iter().any(|family| is_of_family(end, family)) {
                    faults.push(format!("{package} must not reach {end}: {}", path.join(" > ")));
                }
            }
        }
        faults
    }

    /// A shortest path to everything that `start` reaches, itself excluded.
    fn paths_from(&self, start: &str) -> Vec<Vec<&str>> {
        let mut seen = BTreeSet::from([start.to_owned()]);
        let mut queue: VecDeque<Vec<&str>> = VecDeque::new();
        let mut paths = Vec::new();
        let next = |name: &str| self.edges.get(name).into_iter().flatten();
        queue.extend(next(start).map(|name| vec![name.as_str()]));
        while let Some(path) = queue.pop_front() {
            let end = *path.last().expect("a path has an end");
            if !seen.insert(end.to_owned()) {
                continue;
            }
            queue.extend(next(end).map(|name| [path.as_slice(), &[name.as_str()]].concat()));
            paths.push(path);
        }
        paths
    }
}

fn allowed_for(package: &str) -> Option<Vec<&'static str>> {
    if package == LEARNER.0 {
        return Some([ENGINES, LEARNER.1].concat());
    }
    let line = DIRECTIONS.iter().find(|(name, _)| *name == package);
    line.map(|(_, allowed)| allowed.to_vec())
}

fn is_of_family(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

fn host_triple() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc is installed");
    let text = String::from_utf8(output.stdout).expect("rustc writes text");
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let ours = MUST_NOT_REACH.iter().map(|(name, _)| (*name).to_owned());
        let edges = edges.iter().map(|(name, to)| {
            ((*name).to_owned(), to.iter().map(|name| (*name).to_owned()).collect())
        });
        Graph { ours: ours.collect(), edges: edges.collect(), features: BTreeSet::new() }
    }

    #[test]
    fn failpoints_in_a_program_are_found() {
        let mut graph = graph(&[]);
        let feature = |by: &str, on: &str| (by.to_owned(), "fail".to_owned(), on.to_owned());
        graph.features.insert(feature("learner", "other"));
        assert!(graph.failpoints_in_programs().is_empty());
        graph.features.insert(feature("actor", "failpoints"));
        let fault = "actor builds fail/failpoints into programs";
        assert_eq!(graph.failpoints_in_programs(), [fault]);
    }

    #[test]
    fn a_wrong_direction_is_found() {
        let faults = graph(&[("types", &["tandem", "thiserror"])]).wrong_directions();
        assert_eq!(faults, ["types may not depend on tandem"]);
        let faults = graph(&[("runtime", &["types"])]).wrong_directions();
        assert_eq!(faults, ["runtime may not depend on types"]);
        assert!(graph(&[("grpo", &["model"])]).wrong_directions().is_empty());
    }

    #[test]
    fn a_package_without_a_rule_is_found() {
        let mut graph = graph(&[]);
        graph.ours.insert("helpers".to_owned());
        assert_eq!(graph.wrong_directions(), ["helpers has no line in the table of directions"]);
    }

    #[test]
    fn a_forbidden_reach_is_found_over_several_steps() {
        let reaches = graph(&[
            ("coordinator", &["miniature"]),
            ("miniature", &["loader"]),
            ("loader", &["candle-core"]),
        ]);
        assert_eq!(
            reaches.forbidden_reaches(),
            [
                "miniature must not reach candle-core: loader > candle-core",
                "coordinator must not reach candle-core: miniature > loader > candle-core",
            ]
        );
        let fine = graph(&[("coordinator", &["tokio", "metrics", "candles"])]);
        assert!(fine.forbidden_reaches().is_empty());
    }

    #[test]
    fn a_circle_ends() {
        let circle = graph(&[("types", &["a"]), ("a", &["b"]), ("b", &["a", "tokio-util"])]);
        assert_eq!(
            circle.forbidden_reaches(),
            ["types must not reach tokio-util: a > b > tokio-util"]
        );
    }
}
