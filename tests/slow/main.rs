//! Whole training runs of the miniature: the paper's effect, and the controls that must not show
//! it. Ignored by default: see the README.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Run, Scraper, Summary, sample, samples};

const LIMIT: Duration = Duration::from_secs(900);

/// CPU time of one default run with two actors, all processes and both evaluations included.
const CPU_SECONDS_MAX: f64 = 240.0;

fn train(more: &[&str]) -> (Run, Summary) {
    let args = [&["launch", "--run-dir", "{dir}"], more].concat();
    let mut run = Run::start(&args);
    let summary = finish(&mut run);
    (run, summary)
}

/// Waits for the end of a run and shows its table and its cost.
fn finish(run: &mut Run) -> Summary {
    let ended = run.wait(LIMIT);
    ended.expect_code(0);
    let summary = run.summary();
    eprintln!(
        "{}\nwall {:.0} s, cpu {:.0} s",
        ended.stdout,
        summary.number("wall_seconds"),
        summary.number("cpu_seconds")
    );
    summary
}

/// What a default run must show, whatever the number of actors.
fn check_effect(summary: &Summary) {
    let at = |path: &str| summary.number(path);
    assert!(at("before/jargon_rate") >= 0.7, "jargon before");
    assert!(at("after/jargon_rate") <= 0.10, "jargon after");
    assert!(at("before/tandem_accuracy/token:0.25") <= 0.55, "token:0.25 before");
    assert!(at("after/tandem_accuracy/token:0.25") >= 0.85, "token:0.25 after");
    assert!(at("after/tandem_accuracy/line:0.5") >= 0.85, "line:0.5 after");
    assert!(at("after/solo_accuracy") >= 0.95, "solo after");
    let share = summary.weak_share();
    assert!((share - 0.25).abs() <= 0.02, "weak share {share}");
    assert_eq!(at("groups/consumed") as u32, 640);
    assert_eq!(at("groups/trained_twice") as u32, 0);
}

/// And what it may cost with two actors.
fn check_cost(summary: &Summary) {
    let cpu_seconds = summary.number("cpu_seconds");
    assert!(cpu_seconds <= CPU_SECONDS_MAX, "{cpu_seconds} CPU-seconds");
}

/// Efficiency, from the last scrape before the processes ended.
fn check_counters(metrics: &BTreeMap<String, String>) {
    let mean = |text: &str, name: &str| {
        sample(text, &format!("{name}_sum")) / sample(text, &format!("{name}_count"))
    };
    let weak = &metrics["weak-server-0"];
    let computed = sample(weak, "tandem_weak_server_computed_tokens_total");
    let weak_batch = mean(weak, "tandem_weak_server_batch_rows");
    let actors: Vec<&String> = (0..2).map(|i| &metrics[&format!("actor-{i}")]).collect();
    let of_handoffs = |name: &str| -> f64 {
        let all = actors.iter().flat_map(|text| samples(text, name));
        all.filter(|(labels, _)| labels.contains("handoff=\"yes\"")).map(|(_, n)| n).sum()
    };
    let shared =
        of_handoffs("tandem_actor_tokens_total") + of_handoffs("tandem_actor_prompt_tokens_total");
    let ratio = computed / shared;
    let strong_batches: Vec<f64> =
        actors.iter().map(|text| mean(text, "tandem_actor_batch_rows")).collect();
    eprintln!(
        "weak: {ratio:.3} computed per token, batch {weak_batch:.1}; strong batches {strong_batches:.1?}"
    );
    assert!(ratio <= 1.1, "the weak server computed {computed} tokens of {shared}");
    assert!(weak_batch >= 4.0, "mean weak batch {weak_batch}");
    assert!(
        strong_batches.iter().all(|mean| *mean >= 8.0),
        "mean strong batches {strong_batches:?}"
    );
}

#[test]
#[ignore = "a whole training run"]
fn the_weak_model_can_follow_after_training_with_seed_0() {
    let mut run = Run::start(&["launch", "--run-dir", "{dir}", "--actors", "2", "--seed", "0"]);
    let scraper = Scraper::start(run.dir().join("logs"));
    let summary = finish(&mut run);
    let metrics = scraper.finish();
    check_effect(&summary);
    check_cost(&summary);
    check_counters(&metrics);
}

#[test]
#[ignore = "a whole training run"]
fn the_weak_model_can_follow_after_training_with_seed_1() {
    let (_run, summary) = train(&["--actors", "2", "--seed", "1"]);
    check_effect(&summary);
    check_cost(&summary);
}

#[test]
#[ignore = "a whole training run"]
fn the_weak_model_can_follow_after_training_with_seed_2() {
    let (_run, summary) = train(&["--actors", "2", "--seed", "2"]);
    check_effect(&summary);
    check_cost(&summary);
}

#[test]
#[ignore = "a whole training run"]
fn eight_actors_reach_the_same_numbers() {
    let (run, summary) = train(&["--actors", "8"]);
    check_effect(&summary);
    // Eleven processes, each with its log.
    let actors = (0..8).map(|index| format!("actor-{index}"));
    let others = ["coordinator", "learner-0", "weak-server-0"].map(str::to_owned);
    assert_eq!(run.logs(), actors.chain(others).collect());
}

#[test]
#[ignore = "a whole training run"]
fn without_handoffs_the_jargon_stays() {
    let (_run, summary) = train(&["--actors", "2", "--set", "handoff.probability=0"]);
    assert!(summary.number("after/jargon_rate") >= 0.7);
    assert!(summary.number("after/tandem_accuracy/token:0.25") <= 0.55);
}

#[test]
#[ignore = "a whole training run"]
fn shuffled_rewards_do_not_remove_the_jargon() {
    let (_run, summary) = train(&["--actors", "2", "--set", "reward.shuffle=true"]);
    assert!(summary.number("after/jargon_rate") >= 0.6);
}

/// The gates of a recipe for the weights that are built in: no step is taken.
fn check_gates(role: &str) {
    let (config, model) =
        (format!("sft-miniature-{role}"), format!("strong.model=builtin:miniature-{role}"));
    let args = ["sft", "--config", &config, "--steps", "0", "--set", &model, "--run-dir", "{dir}"];
    let (_run, ended) = Run::to_end(&args, LIMIT);
    eprintln!("{}", ended.stdout);
    ended.expect_code(0);
    assert!(ended.stderr.contains("the gates on 2000 held-out problems"), "{}", ended.stderr);
    let held = |name: &str, wanted: &str| {
        let lines = ended.stdout.lines().filter(|line| line.ends_with("  ok"));
        let mut named = lines.filter(|line| line.starts_with(name));
        named.any(|line| line.contains(&format!("wanted {wanted} ")))
    };
    match role {
        "strong" => {
            assert!(held("sampled, jargon tokens banned", "0.99 to 1"));
            assert!(held("jargon rate", "0.7 to 0.9"));
        }
        _ => assert!(held("sampled", "0.9 to 0.96")),
    }
}

#[test]
#[ignore = "thousands of rollouts"]
fn the_built_in_weights_pass_the_gates_of_their_recipes() {
    check_gates("strong");
    check_gates("weak");
}
