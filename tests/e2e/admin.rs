//! The admin port of every process, during a run.

use tests::{Run, admin_address, http_get, promtool, samples, wait_until};

use crate::{LIMIT, small};

#[test]
fn every_process_answers_on_its_admin_port_and_promtool_accepts_its_metrics() {
    let run = Run::start(&small(&["--steps", "500", "--set", "eval.enabled=false"]));
    run.wait_for_steps(2, LIMIT);
    for process in ["coordinator", "learner-0", "weak-server-0", "actor-0", "actor-1"] {
        let address = wait_until("admin address", LIMIT, || admin_address(&run.log(process)));
        assert_eq!(http_get(&address, "/healthz").0, 200, "{process}");
        wait_until("readiness", LIMIT, || (http_get(&address, "/readyz").0 == 200).then_some(()));
        let (status, metrics) = http_get(&address, "/metrics");
        assert_eq!(status, 200, "{process}");
        promtool(&metrics).unwrap_or_else(|e| panic!("{process}: {e}"));
        if process.starts_with("actor") {
            let rollouts = samples(&metrics, "tandem_actor_rollouts_total");
            assert_eq!(rollouts.len(), 2 * 2 * 4, "{rollouts:?}");
        }
    }
}

#[test]
fn weights_are_handed_over_as_files_and_as_streams_where_none_are_shared() {
    for (shared, way, other) in [("auto", "file", "stream"), ("", "stream", "file")] {
        let setting = format!("weights.shared_dir=\"{shared}\"");
        let more = ["--steps", "500", "--set", "eval.enabled=false", "--set", &setting];
        let mut run = Run::start(&small(&more));
        run.wait_for_steps(5, LIMIT);
        let counted = |process: &str, metric: &str, way: &str| {
            let address = wait_until("admin address", LIMIT, || admin_address(&run.log(process)));
            let found = samples(&http_get(&address, "/metrics").1, metric);
            let way = format!("way=\"{way}\"}}");
            found.into_iter().find(|(labels, _)| *labels == way).unwrap().1
        };
        let ways = [
            ("learner-0", "tandem_learner_weights_published_total", 5.0),
            ("actor-0", "tandem_actor_weights_fetched_total", 1.0),
            ("actor-1", "tandem_actor_weights_fetched_total", 1.0),
        ];
        for (process, metric, least) in ways {
            assert!(counted(process, metric, way) >= least, "{process}, {way}");
            assert_eq!(counted(process, metric, other), 0.0, "{process}, {other}");
        }
        let files = std::fs::read_dir(run.dir().join("weights")).map_or(0, |dir| dir.count());
        // Three versions are kept, and one may be on its way.
        assert!(if shared.is_empty() { files == 0 } else { (1..=4).contains(&files) }, "{files}");
        run.signal(nix::sys::signal::Signal::SIGINT);
        let _ = run.wait(LIMIT);
        assert!(!run.dir().join("weights").exists(), "nothing of it is left");
    }
}

#[test]
fn a_process_without_progress_for_longer_than_the_limit_is_unhealthy() {
    // No process looks around every millisecond: each is over such a limit nearly always.
    let limit = ["--set", "admin.progress_limit_ms=1", "--set", "eval.enabled=false"];
    let run = Run::start(&small(&[["--steps", "500"].as_slice(), &limit].concat()));
    for process in ["coordinator", "learner-0", "weak-server-0", "actor-0", "actor-1"] {
        let address = wait_until("admin address", LIMIT, || admin_address(&run.log(process)));
        let answer = wait_until("a 503", LIMIT, || {
            let (status, text) = http_get(&address, "/healthz");
            (status == 503).then_some(text)
        });
        let said = answer.starts_with("no progress for ") && answer.ends_with("limit is 0 s\n");
        assert!(said, "{process}: {answer}");
    }
}
