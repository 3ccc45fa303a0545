//! What the files of `deploy/` say about the programs must be true of them.

use settings::Settings;
use toml::Value;

const PREFIX: &str = "TANDEM__";

/// Names of settings, as the environment has them, that are none.
pub(crate) fn unknown_settings(path: &str, text: &str) -> Vec<String> {
    let known = Settings::default().to_toml();
    let known: Value = toml::from_str(&known).expect("the canonical text is TOML");
    let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let names = text.match_indices(PREFIX).map(|(at, _)| {
        let rest = &text[at + PREFIX.len()..];
        &rest[..rest.find(|c| !name(c)).unwrap_or(rest.len())]
    });
    // The pattern itself, where a text explains it or looks for it.
    let names = names.filter(|name| !["", "SECTION__KEY"].contains(name));
    let is_known = |name: &str| {
        let mut parts = name.split("__").map(str::to_lowercase);
        parts.try_fold(&known, |value, part| value.get(part)).is_some_and(|v| !v.is_table())
    };
    names.filter(|name| !is_known(name)).map(|name| format!("{path}: {PREFIX}{name}")).collect()
}

#[test]
fn names_are_looked_up_in_the_schema() {
    let text = "TANDEM__TRAIN__STEPS: 1\nTANDEM__TRAIN__STEP: 1\n$TANDEM__RUN TANDEM__SECTION__KEY";
    let found = unknown_settings("a.yaml", text);
    assert_eq!(found, ["a.yaml: TANDEM__TRAIN__STEP", "a.yaml: TANDEM__RUN"]);
}
