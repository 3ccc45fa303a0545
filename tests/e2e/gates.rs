//! A recipe whose result misses a gate says so and fails.

use tests::Run;

use crate::LIMIT;

#[test]
fn a_missed_gate_is_named_and_ends_the_recipe_with_1() {
    let recipe = ["sft", "--config", "sft-miniature-weak", "--run-dir", "{dir}"];
    let short = ["--steps", "2", "--set", "gates.problems=20", "--set", "gates.jargon_max=0.99"];
    let (run, ended) = Run::to_end(&[recipe.as_slice(), &short].concat(), LIMIT);
    ended.expect_code(1);
    let verdict = |gate: &str| {
        let mut lines = ended.stdout.lines();
        let line = lines.find(|line| line.starts_with(gate));
        let line = line.unwrap_or_else(|| panic!("no {gate} in:\n{}", ended.stdout));
        line.split_whitespace().last().map(str::to_owned)
    };
    assert_eq!(verdict("sampled "), Some("MISSED".to_owned()));
    assert_eq!(verdict("jargon rate "), Some("ok".to_owned()), "this one holds");
    assert!(ended.stderr.contains("a gate was missed: train for longer"), "{}", ended.stderr);
    // The weights are kept, for who wants to look at them.
    assert!(run.dir().join("checkpoints/step-000002/state.json").is_file());
}
