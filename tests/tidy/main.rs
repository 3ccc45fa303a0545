//! The invariants of `ARCHITECTURE.md` that a program can check, on the whole tree. Each rule
//! lives beside a test that proves it can fail; here they meet the real files.

mod deploy;
mod graph;
mod source;
mod text;
mod tokens;
mod tree;

use graph::Graph;
use tree::Tree;

/// Fails with every fault of a rule at once, so that one run shows all there is to mend.
fn no_faults(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn check_sources(rule: source::Rule) {
    let tree = Tree::read();
    let sources: Vec<_> = tree.rust_sources().collect();
    // A walk that finds nothing would let everything pass.
    assert!(sources.len() > 50, "only {} Rust files found", sources.len());
    let judged = sources.iter().flat_map(|source| match source {
        Ok(source) => source.faults(rule),
        Err(fault) => vec![fault.clone()],
    });
    let faults: Vec<String> = judged.collect();
    no_faults(&faults);
}

#[test]
fn every_file_says_what_it_owns() {
    check_sources(source::module_docs);
}

#[test]
fn no_file_is_too_long() {
    check_sources(source::file_length);
}

#[test]
fn no_function_is_too_long() {
    check_sources(source::function_length);
}

#[test]
fn only_the_runtime_starts_tasks() {
    check_sources(source::task_starts);
}

#[test]
fn wire_types_stay_at_the_border() {
    check_sources(source::wire_types);
}

#[test]
fn only_launching_is_unsafe() {
    check_sources(source::unsafe_code);
}

#[test]
fn nothing_is_left_undone() {
    check_sources(source::unfinished_code);
}

#[test]
fn every_silenced_lint_has_a_reason() {
    check_sources(source::silenced_lints);
}

#[test]
fn no_text_names_this_machine_or_a_registry() {
    let tree = Tree::read();
    let faults: Vec<String> =
        tree.texts().flat_map(|(path, text)| text::machine_names(path, text)).collect();
    no_faults(&faults);
}

#[test]
fn crates_depend_in_one_direction() {
    no_faults(&Graph::of_workspace().wrong_directions());
}

#[test]
fn no_program_has_failpoints() {
    no_faults(&Graph::of_workspace().failpoints_in_programs());
}

#[test]
fn no_crate_reaches_what_it_must_not_know() {
    no_faults(&Graph::of_workspace().forbidden_reaches());
}

#[test]
fn deployments_name_settings_that_exist() {
    let tree = Tree::read();
    let files: Vec<_> = tree.texts().filter(|(path, _)| path.starts_with("deploy/")).collect();
    assert!(files.iter().any(|(path, _)| path.ends_with("compose.yaml")), "no files of compose");
    let faults = files.iter().flat_map(|(path, text)| deploy::unknown_settings(path, text));
    no_faults(&faults.collect::<Vec<_>>());
}
