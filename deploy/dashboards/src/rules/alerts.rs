//! When somebody is to be told, and what to look at then. Thresholds are such that an ordinary run
//! of the miniature raises none.

use actor::metrics as of_actor;
use coordinator::metrics as of_run;
use learner::metrics as of_learner;
use telemetry::{Counter, Gauge, Metric};
use weak_server::metrics as of_weak;

use super::Alert;
use super::records::{HELD_OUT_SOLO, TRAINING_SUCCESS};

const CRITICAL: &str = "critical";
const WARNING: &str = "warning";

/// Below this much free, somebody should make room: four times what is to stay free by default.
const DISK_FREE_MIN_BYTES: u64 = 1 << 30;

pub(super) fn alerts() -> Vec<Alert> {
    let mut alerts = of_results();
    alerts.extend(of_processes());
    alerts.extend(of_work());
    alerts
}

fn of_results() -> Vec<Alert> {
    let with_handoff = format!(r#"{TRAINING_SUCCESS}{{handoff="yes"}}"#);
    vec![
        Alert {
            name: "TandemHandoffSuccessFalling",
            expression: format!("{with_handoff}\n< 0.75 * max_over_time({with_handoff}[6h])"),
            lasts: "10m",
            severity: WARNING,
            summary: "Rollouts with a handoff succeed a quarter less often than they did.",
            description: "The weak model follows less, or the strong one has become worse: compare \
                          solo accuracy, jargon and the divergence from the start.",
        },
        Alert {
            name: "TandemSoloAccuracyFalling",
            expression: format!("{HELD_OUT_SOLO}\n< 0.9 * max_over_time({HELD_OUT_SOLO}[6h])"),
            lasts: "1m",
            severity: WARNING,
            summary: "The strong model alone has lost a tenth of its held-out accuracy.",
            description: "Training pays for being followed with being right: lower \
                          train.learning_rate or raise train.kl.",
        },
        Alert {
            name: "TandemNotFinite",
            expression: not_finite(),
            lasts: "0s",
            severity: CRITICAL,
            summary: "Numbers are not finite, or weights were refused.",
            description: "A loss, gradient or weight was not finite and the process ended over it, \
                          or a version of the weights was damaged. Its log says which; go on from a \
                          checkpoint with a lower train.learning_rate or train.grad_norm_max.",
        },
        Alert {
            name: "TandemGroupTrainedTwice",
            expression: format!("{} > 0", of_run::TRAINED_TWICE.name()),
            lasts: "0s",
            severity: CRITICAL,
            summary: "A group of rollouts was trained on twice.",
            description: "This must not happen whatever fails. Keep the run directory and report it.",
        },
    ]
}

fn not_finite() -> String {
    let often = |counter: &Counter, matchers: &str| {
        format!("sum by (job) (increase({}{{{matchers}}}[15m])) > 0", counter.name())
    };
    [
        often(&of_run::DEPARTURES, r#"how="not_finite""#),
        often(&of_run::PUBLICATIONS, r#"outcome="refused""#),
        often(&of_actor::WEIGHTS_REFUSED, ""),
    ]
    .join("\nor\n")
}

/// Without a coordinator the list of the others is an old one.
fn process_down() -> String {
    let of = |role: &str| format!(r#"up{{job="tandem",role{role}"coordinator"}}"#);
    format!("{} == 0\nand on (job)\n{} == 1", of("!="), of("="))
}

/// One that is through with its run ends, too.
fn coordinator_down() -> String {
    let last = |gauge: &Gauge| format!("last_over_time({}[30d])", gauge.name());
    format!(
        "up{{job=\"tandem\",role=\"coordinator\"}} == 0\nunless on (job, instance, name)\n{} >= {}",
        last(&of_run::STEP),
        last(&of_run::STEPS_DUE)
    )
}

fn of_processes() -> Vec<Alert> {
    let free = |name: &str| format!("{name} < {DISK_FREE_MIN_BYTES}");
    let disks = [&of_run::DISK_FREE, &of_learner::DISK_FREE].map(|disk| free(disk.name()));
    vec![
        Alert {
            name: "TandemProcessDown",
            expression: process_down(),
            lasts: "30s",
            severity: CRITICAL,
            summary: "{{ $labels.name }} does not answer.",
            description: "It has ended, hangs, or cannot be reached at {{ $labels.instance }}. A \
                          process that is missing is listed for a minute after its leases ended.",
        },
        Alert {
            name: "TandemCoordinatorDown",
            expression: coordinator_down(),
            lasts: "1m",
            severity: WARNING,
            summary: "The coordinator does not answer, and when it last did there were steps to go.",
            description: "It has ended, hangs, or cannot be reached at {{ $labels.instance }}; or \
                          the run ended before its last step was scraped. The others wait for it for coordinator.return_timeout_ms; `coordinator serve`, \
                          or `launch --resume`, goes on with the run.",
        },
        Alert {
            name: "TandemProcessesFailing",
            expression: format!(
                r#"sum by (job, program) (increase({}{{how!="ordered"}}[15m])) >= 3"#,
                of_run::DEPARTURES.name()
            ),
            lasts: "0s",
            severity: WARNING,
            summary: "Processes of the program {{ $labels.program }} keep failing.",
            description: "Three or more have failed or were lost within a quarter of an hour: see \
                          their logs in logs/ of the run directory.",
        },
        Alert {
            name: "TandemDiskNearlyFull",
            expression: disks.join("\nor\n"),
            lasts: "1m",
            severity: WARNING,
            summary: "Less than 1 GiB is free where {{ $labels.name }} writes.",
            description: "Below checkpoint.free_bytes_min no checkpoint is begun: make room, or \
                          lower checkpoint.keep.",
        },
    ]
}

fn of_work() -> Vec<Alert> {
    let groups = of_learner::GROUPS.name();
    let received =
        |receipt: &str| format!(r#"sum by (job) (increase({groups}{{receipt="{receipt}"}}[15m]))"#);
    let (queued, places) = (of_actor::QUEUED.name(), of_actor::QUEUE_PLACES.name());
    let (waiting, refused) = (of_weak::QUEUED_REQUESTS.name(), of_weak::REFUSED_REQUESTS.name());
    let done = of_run::GROUPS.name();
    vec![
        Alert {
            name: "TandemRolloutsStale",
            expression: format!("{}\n/\n({} > 0)\n> 0.25", received("stale"), received("accepted")),
            lasts: "5m",
            severity: WARNING,
            summary: "More than a quarter of all groups are too old when their step comes.",
            description: "Actors write faster than the learner trains, or fetch weights late: use \
                          fewer actors, more learners, or a larger staleness.max_versions.",
        },
        Alert {
            name: "TandemQueueFull",
            expression: format!("{queued} >= {places}"),
            lasts: "2m",
            severity: WARNING,
            summary: "The queue {{ $labels.queue }} of {{ $labels.name }} is full.",
            description: "Whoever takes from it is slower than the actor: spans go to the weak \
                          server, the others to the learner and the coordinator.",
        },
        Alert {
            name: "TandemWeakServerSaturated",
            expression: format!(
                "min_over_time({waiting}[5m]) > 0\nor\n\
                 sum by (job, instance, role, name) \
                 (increase({refused}{{fault=\"overloaded\"}}[5m])) > 0"
            ),
            lasts: "5m",
            severity: WARNING,
            summary: "Requests wait for {{ $labels.name }} all the time, or are refused.",
            description: "Every row of its batch is taken: raise weak_server.batch_rows, or start \
                          another weak server.",
        },
        Alert {
            name: "TandemNoProgress",
            expression: format!(
                "sum by (job) (increase({done}{{outcome=\"completed\"}}[10m])) == 0\nand on (job)\n\
                 {} < {}",
                of_run::STEP.name(),
                of_run::STEPS_DUE.name()
            ),
            lasts: "5m",
            severity: CRITICAL,
            summary: "No group of rollouts was completed for ten minutes.",
            description: "`coordinator status RUN_DIR` says what each process waits for.",
        },
    ]
}
