//! A wall clock that jumps under a run.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;
use tests::{Run, Scraper, WallClock, samples};

use crate::reliability::check_whole;
use crate::{LIMIT, small};

const HOUR: i32 = 3_600;

/// The hours in which a log's lines were written, by the clock of whoever wrote them.
fn hours(log: &str) -> BTreeSet<&str> {
    log.lines().filter_map(|line| line.split_once('T')?.1.get(..2)).collect()
}

#[test]
fn row_13_a_wall_clock_that_jumps_ends_no_lease() {
    let Some(clock) = WallClock::new("row 13") else { return };
    // Whoever sends or receives anything says when.
    let more =
        ["--steps", "12", "--set", "eval.enabled=false", "--set", "log.filter=info,h2=debug"];
    let started = Instant::now();
    let mut run = Run::start_under(&clock.variables(), &small(&more));
    let scraper = Scraper::start(run.dir().join("logs"));
    run.wait_for_steps(2, LIMIT);
    clock.jump(HOUR);
    let steps = run.steps();
    run.wait_for_steps(steps + 3, LIMIT);
    clock.jump(-HOUR);
    let ended = run.wait(LIMIT);
    ended.expect_code(0);
    check_whole(&run);
    assert!(!ended.stderr.contains("is gone"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("started again"), "{}", ended.stderr);
    for process in ["coordinator", "actor-0", "actor-1", "weak-server-0", "learner-0"] {
        let log = run.log(process);
        assert!(hours(&log).len() >= 3, "its clock has not jumped twice:\n{log}");
    }

    let metrics = scraper.finish();
    let groups = samples(&metrics["coordinator"], "tandem_coordinator_groups_total");
    let expired = groups.iter().filter(|(labels, _)| labels.contains("outcome=\"expired\""));
    assert_eq!(expired.map(|(_, count)| *count).collect::<Vec<_>>(), [0.0, 0.0]);

    let text = std::fs::read_to_string(run.dir().join("metrics.jsonl")).unwrap();
    let wall = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["wall_seconds"].as_f64().unwrap()
    };
    let walls: Vec<f64> = text.lines().map(wall).collect();
    assert!(walls.is_sorted() && walls[0] >= 0.0, "{walls:?}");
    let whole = started.elapsed().as_secs_f64();
    assert!(walls.iter().all(|wall| *wall <= whole), "{walls:?}");
}
