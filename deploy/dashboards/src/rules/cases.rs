//! What promtool tries the rules with: for every alert series that do not raise it at first and then
//! do, and for records series with a value that is known.

use actor::metrics as of_actor;
use coordinator::metrics as of_run;
use learner::metrics as of_learner;
use telemetry::Metric;
use weak_server::metrics as of_weak;

use super::records::{HELD_OUT_HANDOFF, HELD_OUT_QUOTIENT};

/// One series a minute, in promtool's notation.
type Series = (String, &'static str);

/// An alert, and what raises it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(super) alert: &'static str,
    pub(super) series: Vec<Series>,
    /// When it is not raised yet.
    pub(super) quiet_at: &'static str,
    pub(super) raised_at: &'static str,
    /// Of the alert, besides its severity.
    pub(super) labels: &'static [(&'static str, &'static str)],
}

/// A record, and the values that it must have. Fractions are exact: promtool compares bits.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(super) record: &'static str,
    pub(super) series: Vec<Series>,
    pub(super) labels: &'static str,
    pub(super) values: &'static [(&'static str, &'static str)],
}

const JOB: &[(&str, &str)] = &[("job", "tandem")];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = of_results();
    cases.extend(of_numbers());
    cases.extend(of_processes());
    cases.extend(of_work());
    cases
}

fn series(metric: &dyn Metric, labels: &str, values: &'static str) -> Series {
    let separator = if labels.is_empty() { "" } else { "," };
    (format!(r#"{}{{job="tandem"{separator}{labels}}}"#, metric.name()), values)
}

fn of_results() -> Vec<Case> {
    let rollouts = |outcome: &str, values| {
        let labels = format!(r#"purpose="train",handoff="yes",outcome="{outcome}""#);
        series(&of_actor::ROLLOUTS, &labels, values)
    };
    let solo = |stage: &str, values| {
        let labels = format!(r#"stage="{stage}",decoding="sampled""#);
        series(&of_run::EVAL_SOLO, &labels, values)
    };
    vec![
        // From three in four to one in four.
        Case {
            alert: "TandemHandoffSuccessFalling",
            series: vec![
                rollouts("correct", "0+3x60 181+1x60"),
                rollouts("wrong", "0+1x60 63+3x60"),
            ],
            quiet_at: "60m",
            raised_at: "100m",
            labels: &[("job", "tandem"), ("handoff", "yes")],
        },
        Case {
            alert: "TandemSoloAccuracyFalling",
            series: vec![solo("before", "1x60"), solo("during", "_x10 1x10 0.5x40")],
            quiet_at: "20m",
            raised_at: "30m",
            labels: JOB,
        },
    ]
}

fn of_numbers() -> Vec<Case> {
    let not_finite = |of: Series| Case {
        alert: "TandemNotFinite",
        series: vec![of],
        quiet_at: "5m",
        raised_at: "8m",
        labels: JOB,
    };
    let once = "0x5 1x10";
    let gone = r#"program="learner",how="not_finite""#;
    vec![
        not_finite(series(&of_run::DEPARTURES, gone, once)),
        not_finite(series(&of_run::PUBLICATIONS, r#"outcome="refused""#, once)),
        not_finite(series(&of_actor::WEIGHTS_REFUSED, r#"name="actor-1""#, once)),
        Case {
            alert: "TandemGroupTrainedTwice",
            series: vec![series(&of_run::TRAINED_TWICE, "", once)],
            quiet_at: "5m",
            raised_at: "7m",
            labels: JOB,
        },
    ]
}

fn of_processes() -> Vec<Case> {
    let up = r#"up{job="tandem",role="actor",name="actor-0",instance="10.0.0.7:9100"}"#;
    let coordinator = r#"up{job="tandem",role="coordinator",name="coordinator",instance="c:9100"}"#;
    let steps = |metric: &dyn Metric, values| {
        let labels = r#"role="coordinator",name="coordinator",instance="c:9100""#;
        series(metric, labels, values)
    };
    let failing = |program: &str, how: &str| {
        let labels = format!(r#"program="{program}",how="{how}""#);
        series(&of_run::DEPARTURES, &labels, "0x5 4x15")
    };
    let disk = |metric: &dyn Metric, name: &str| {
        series(metric, &format!(r#"name="{name}""#), "2147483648x5 1073741823x10")
    };
    vec![
        // At first the coordinator does not answer either.
        Case {
            alert: "TandemProcessDown",
            series: vec![(up.to_owned(), "1x2 0x18"), (coordinator.to_owned(), "0x8 1x12")],
            quiet_at: "8m",
            raised_at: "12m",
            labels: &[
                ("job", "tandem"),
                ("role", "actor"),
                ("name", "actor-0"),
                ("instance", "10.0.0.7:9100"),
            ],
        },
        // At first its run is complete.
        Case {
            alert: "TandemCoordinatorDown",
            series: vec![
                (coordinator.to_owned(), "1x2 0x18"),
                steps(&of_run::STEP, "20x8 15x12"),
                steps(&of_run::STEPS_DUE, "20x20"),
            ],
            quiet_at: "8m",
            raised_at: "12m",
            labels: &[
                ("job", "tandem"),
                ("role", "coordinator"),
                ("name", "coordinator"),
                ("instance", "c:9100"),
            ],
        },
        // Those that were told to end do not fail.
        Case {
            alert: "TandemProcessesFailing",
            series: vec![failing("actor", "lost"), failing("weak-server", "ordered")],
            quiet_at: "5m",
            raised_at: "8m",
            labels: &[("job", "tandem"), ("program", "actor")],
        },
        Case {
            alert: "TandemDiskNearlyFull",
            series: vec![disk(&of_run::DISK_FREE, "coordinator")],
            quiet_at: "5m",
            raised_at: "8m",
            labels: &[("job", "tandem"), ("name", "coordinator")],
        },
        Case {
            alert: "TandemDiskNearlyFull",
            series: vec![disk(&of_learner::DISK_FREE, "learner-0")],
            quiet_at: "5m",
            raised_at: "8m",
            labels: &[("job", "tandem"), ("name", "learner-0")],
        },
    ]
}

fn of_work() -> Vec<Case> {
    let received = |receipt: &str, values| {
        series(&of_learner::GROUPS, &format!(r#"receipt="{receipt}""#), values)
    };
    let queue = r#"name="actor-0",queue="learner""#;
    let server = r#"role="weak-server",name="weak-server-0",instance="10.0.0.7:9101""#;
    let saturated: &[(&str, &str)] = &[
        ("job", "tandem"),
        ("role", "weak-server"),
        ("name", "weak-server-0"),
        ("instance", "10.0.0.7:9101"),
    ];
    let overloaded = format!(r#"{server},fault="overloaded""#);
    let completed = r#"purpose="train",outcome="completed""#;
    vec![
        Case {
            alert: "TandemRolloutsStale",
            series: vec![received("accepted", "0+4x60"), received("stale", "0x20 2+2x40")],
            quiet_at: "20m",
            raised_at: "45m",
            labels: JOB,
        },
        Case {
            alert: "TandemQueueFull",
            series: vec![
                series(&of_actor::QUEUED, queue, "1x10 64x20"),
                series(&of_actor::QUEUE_PLACES, queue, "64x30"),
            ],
            quiet_at: "11m",
            raised_at: "14m",
            labels: &[("job", "tandem"), ("name", "actor-0"), ("queue", "learner")],
        },
        Case {
            alert: "TandemWeakServerSaturated",
            series: vec![series(&of_weak::QUEUED_REQUESTS, server, "0x10 5x20")],
            quiet_at: "15m",
            raised_at: "23m",
            labels: saturated,
        },
        Case {
            alert: "TandemWeakServerSaturated",
            series: vec![series(&of_weak::REFUSED_REQUESTS, &overloaded, "0x5 1+1x20")],
            quiet_at: "5m",
            raised_at: "15m",
            labels: saturated,
        },
        Case {
            alert: "TandemNoProgress",
            series: vec![
                series(&of_run::GROUPS, completed, "0+1x20 20x40"),
                series(&of_run::STEP, "", "3x60"),
                series(&of_run::STEPS_DUE, "", "80x60"),
            ],
            quiet_at: "30m",
            raised_at: "40m",
            labels: JOB,
        },
    ]
}

pub(crate) fn samples() -> Vec<Sample> {
    let handoff = |stage: &str, values| {
        let labels = format!(r#"stage="{stage}",schedule="line:0.5""#);
        series(&of_run::EVAL_HANDOFF, &labels, values)
    };
    let solo = series(&of_run::EVAL_SOLO, r#"stage="before",decoding="sampled""#, "0.5x10");
    let latest = [handoff("before", "0.25x10"), handoff("during", "_x5 0.375x5")];
    let labels = r#"job="tandem",schedule="line:0.5""#;
    vec![
        Sample {
            record: HELD_OUT_HANDOFF,
            series: latest.to_vec(),
            labels,
            values: &[("3m", "0.25"), ("8m", "0.375")],
        },
        Sample {
            record: HELD_OUT_QUOTIENT,
            series: latest.into_iter().chain([solo]).collect(),
            labels,
            values: &[("3m", "0.5"), ("8m", "0.75")],
        },
    ]
}
