//! Whole training runs of the miniature: the paper's effect, and the controls that must not show
//! it. Ignored by default: `cargo test -p tests --test slow -- --ignored`.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Run, Scraper, Summary, sample, samples};

const LIMIT: Duration = Duration::from_secs(900);

fn train(more: &[&str]) -> (Run, Summary) {
    let args = [&["launch", "--run-dir", "{dir}"], more].concat();
    let (run, ended) = Run::to_end(&args, LIMIT);
    ended.expect_code(0);
    let summary = run.summary();
    eprintln!(
        "{}\nwall {:.0} s, cpu {:.0} s",
        ended.stdout,
        summary.number("wall_seconds"),
        summary.number("cpu_seconds")
    );
    (run, summary)
}

/// The numbers for one default run.
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
    run.wait(LIMIT).expect_code(0);
    let metrics = scraper.finish();
    let summary = run.summary();
    check_effect(&summary);
    check_counters(&metrics);
}

#[test]
#[ignore = "a whole training run"]
fn the_weak_model_can_follow_after_training_with_seed_1() {
    check_effect(&train(&["--actors", "2", "--seed", "1"]).1);
}

#[test]
#[ignore = "a whole training run"]
fn the_weak_model_can_follow_after_training_with_seed_2() {
    check_effect(&train(&["--actors", "2", "--seed", "2"]).1);
}

#[test]
#[ignore = "a whole training run"]
fn eight_actors_reach_the_same_numbers() {
    check_effect(&train(&["--actors", "8"]).1);
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
