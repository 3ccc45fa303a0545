//! The names of series in an expression. No parser of PromQL: it only tells names from everything
//! that is not one.

use std::collections::BTreeSet;

/// Take a list of labels in parentheses.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Behind the name of a function.
const AFTER_FUNCTION: [&str; 3] = ["(", "by (", "without ("];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// Names of series, in expressions that promtool accepts.
pub(crate) fn series_in(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
        rest = match first {
            '"' => after_text(rest),
            '{' => after_matchers(rest),
            '[' => after(rest, ']'),
            _ if first.is_ascii_digit() => &rest[word..],
            _ if is_of_name(first) => {
                let (name, behind) = rest.split_at(word);
                let next = behind.trim_start();
                let calls = AFTER_FUNCTION.iter().any(|begin| next.starts_with(begin));
                match name {
                    name if BEFORE_LABELS.contains(&name) => after(behind, ')'),
                    name if OPERATORS.contains(&name) => behind,
                    _ if calls => behind,
                    name => {
                        found.insert(name.to_owned());
                        behind
                    }
                }
            }
            _ => &rest[first.len_utf8()..],
        };
    }
    found
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

fn after(text: &str, end: char) -> &str {
    text.find(end).map_or("", |at| &text[at + end.len_utf8()..])
}

/// Behind a quoted text; none has a quote inside.
fn after_text(text: &str) -> &str {
    after(&text[1..], '"')
}

fn after_matchers(text: &str) -> &str {
    let mut rest = text;
    loop {
        match rest.find(['"', '}']) {
            Some(at) if rest[at..].starts_with('"') => rest = after_text(&rest[at..]),
            Some(at) => return &rest[at + 1..],
            None => return "",
        }
    }
}

#[test]
fn names_are_told_from_functions_labels_and_numbers() {
    let check = |expression: &str, expected: &[&str]| {
        let found: Vec<_> = series_in(expression).into_iter().collect();
        assert_eq!(found, expected, "{expression}");
    };
    check("up", &["up"]);
    check("sum by (job, name) (rate(a_total{b=\"c}\",d!~\"e\"}[5m])) > 1.5", &["a_total"]);
    check(
        "time() - a_seconds / on (job) group_left () (b:c:ratio > 0)",
        &["a_seconds", "b:c:ratio"],
    );
    check(
        "a >= b and on (job)\n c or vector(0) unless d == bool 1073741824",
        &["a", "b", "c", "d"],
    );
    check(
        "histogram_quantile(0.95, sum by (le) (rate(x_bucket{}[$__rate_interval])))",
        &["x_bucket"],
    );
    check("max_over_time(y{z=\"w\"}[6h] offset 5m)", &["y"]);
}
