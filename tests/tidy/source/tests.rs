//! For each rule an offending snippet that it must find, and a harmless one that it must not.

use super::*;

fn check(rule: Rule, path: &str, text: &str, expected: &[&str]) {
    let source = Source::parse(path, text).expect("the snippet is Rust");
    assert_eq!(source.faults(rule), expected, "{text}");
}

fn refused(rule: Rule, text: &str, expected: &str) {
    check(rule, "actor/src/a.rs", text, &[expected]);
}

fn accepted(rule: Rule, path: &str, text: &str) {
    check(rule, path, text, &[]);
}

#[test]
fn a_file_without_a_meaningful_opening_is_refused() {
    let fault = "actor/src/a.rs:1: does not open with a //! that says what the file owns";
    refused(module_docs, "fn f() {}", fault);
    refused(module_docs, "//! The actor.\nfn f() {}", fault);
    refused(module_docs, "\n//! One blank line comes first.", fault);
    refused(module_docs, "/// Docs of the function, not of the file.\nfn f() {}", fault);
    accepted(module_docs, "actor/src/a.rs", "//! One thread owns\n//! the device.");
}

#[test]
fn a_long_file_is_refused() {
    let text = "// line\n".repeat(501);
    refused(file_length, &text, "actor/src/a.rs:1: has 501 lines, more than 500");
    accepted(file_length, "actor/src/a.rs", &"// line\n".repeat(500));
}

fn function_of(statements: usize, head: &str) -> String {
    format!("{head}fn long() {{\n{}// no code\n\n}}\n", "    f();\n".repeat(statements))
}

#[test]
fn a_long_function_is_refused_wherever_it_stands() {
    let long = function_of(69, "");
    refused(function_length, &long, "actor/src/a.rs:1: long has 71 lines, more than 70");
    let method = format!("struct S;\nimpl S {{\n{long}}}");
    refused(function_length, &method, "actor/src/a.rs:3: long has 71 lines, more than 70");
    let provided = format!("trait T {{\n{long}}}");
    refused(function_length, &provided, "actor/src/a.rs:2: long has 71 lines, more than 70");
    let nested = format!("mod tests {{\n{long}}}");
    refused(function_length, &nested, "actor/src/a.rs:2: long has 71 lines, more than 70");
    accepted(function_length, "actor/src/a.rs", &function_of(68, ""));
    accepted(function_length, "actor/src/a.rs", &function_of(99, "#[test]\n"));
    accepted(function_length, "actor/src/a.rs", &function_of(99, "#[tokio::test]\nasync "));
}

#[test]
fn a_task_started_outside_the_runtime_is_refused() {
    let call = "fn f() {\n    tokio::spawn(async {});\n}";
    refused(
        task_starts,
        call,
        "actor/src/a.rs:2: tokio::spawn starts a task outside crates/runtime",
    );
    accepted(task_starts, "crates/runtime/src/task_group.rs", call);
    refused(
        task_starts,
        "use tokio::{sync::mpsc, task::{self, spawn_local as run}};",
        "actor/src/a.rs:1: tokio::task::spawn_local starts tasks outside crates/runtime",
    );
    refused(
        task_starts,
        "fn f() { select! { _ = x => { task::spawn(g()); } } }",
        "actor/src/a.rs:1: task::spawn starts a task outside crates/runtime",
    );
    let harmless = "/// Not `tokio::spawn`.\nfn f() { group.spawn(\"tokio::spawn\", g()); }";
    accepted(task_starts, "actor/src/a.rs", harmless);
}

#[test]
fn a_wire_type_away_from_the_border_is_refused() {
    let path = "fn f(x: proto::wire::Group) {}";
    refused(
        wire_types,
        path,
        "actor/src/a.rs:1: proto::wire is a wire type outside proto and the service files",
    );
    refused(
        wire_types,
        "use proto::{client::Learner, wire::Group};",
        "actor/src/a.rs:1: proto::wire::Group is a wire type outside proto and the service files",
    );
    refused(
        wire_types,
        "use proto::*;",
        "actor/src/a.rs:1: proto::* is a wire type outside proto and the service files",
    );
    accepted(wire_types, "proto/src/convert/group.rs", path);
    accepted(wire_types, "learner/src/ingest.rs", path);
    accepted(wire_types, "actor/src/tests/served.rs", path);
    accepted(wire_types, "tests/src/fake_weak.rs", path);
    accepted(wire_types, "fuzz/fuzz_targets/wire.rs", path);
    accepted(wire_types, "weak-server/src/service.rs", path);
    accepted(wire_types, "actor/src/a.rs", "use proto::client::Learner; // not proto::wire");
}

#[test]
fn unsafe_code_is_refused_in_every_form() {
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for S {}",
        "m! { unsafe { g() } }",
    ] {
        let expected = "actor/src/a.rs:1: unsafe code is not needed here";
        refused(unsafe_code, text, expected);
    }
    accepted(
        unsafe_code,
        "actor/src/a.rs",
        "#![deny(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe\";",
    );
}

#[test]
fn unfinished_code_is_refused() {
    refused(unfinished_code, "fn f() { todo!() }", "actor/src/a.rs:1: todo! is left over");
    refused(
        unfinished_code,
        "fn f() {\n    unimplemented!(\"later\")\n}",
        "actor/src/a.rs:2: unimplemented! is left over",
    );
    accepted(unfinished_code, "actor/src/a.rs", "fn todo() { unreachable!(\"todo!\") }");
}

#[test]
fn a_lint_silenced_without_a_reason_is_refused() {
    let allow = "actor/src/a.rs:1: allow without a reason";
    refused(silenced_lints, "#[allow(dead_code)]\nfn f() {}", allow);
    refused(silenced_lints, "#![allow(dead_code, unused)]", allow);
    refused(silenced_lints, "#[cfg_attr(test, allow(dead_code))]\nfn f() {}", allow);
    refused(silenced_lints, "m! { #[allow(dead_code)] fn f() {} }", allow);
    let expect = "actor/src/a.rs:2: expect without a reason";
    refused(silenced_lints, "mod m {\n    #![expect(dead_code)]\n}", expect);
    accepted(
        silenced_lints,
        "actor/src/a.rs",
        "#![allow(dead_code, reason = \"generated\")]\nfn f() { x.expect(\"no attribute\"); }",
    );
}

#[test]
fn what_is_not_rust_is_refused() {
    let fault = Source::parse("actor/src/a.rs", "fn f() {\n    let\n}").err();
    assert!(fault.is_some_and(|fault| fault.starts_with("actor/src/a.rs:")));
}
