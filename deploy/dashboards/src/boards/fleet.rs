//! *Fleet*: the processes of a run. Who is there, on which weights, who failed, and what each uses.

use ::learner::metrics as learner;
use actor::metrics as actors;
use coordinator::metrics as run;

use crate::board::{Board, Row, Variable};
use crate::panel::{NONE_IS_GOOD, Panel, Unit};
use crate::query::{CHOSEN, gauge, increase, max, rate, rate_of, series, sum, total};

pub(super) fn board() -> Board {
    Board {
        uid: "tandem-fleet",
        title: "Fleet",
        description: "The processes of a run: who is there, what failed, what each uses.",
        variables: vec![Variable::run(), Variable::role(), Variable::process()],
        rows: vec![processes(), failures(), work(), weights(), resources()],
    }
}

fn processes() -> Row {
    let up = series("up", "");
    let firing = series("ALERTS", r#"alertstate="firing""#);
    Row {
        title: "Processes",
        panels: vec![
            Panel::stat("Answering", "Processes whose admin port answers Prometheus.")
                .query(format!("sum({up})"), "up"),
            Panel::stat(
                "Down",
                "Listed, and not answering. A lost one is listed for a minute more.",
            )
            .query(format!("sum({up} == bool 0)"), "down")
            .coloured(NONE_IS_GOOD),
            Panel::stat("Alerts", "Firing now.")
                // No series stands for no alert.
                .query(format!("count({firing}) or vector(0)"), "firing")
                .coloured(NONE_IS_GOOD),
            Panel::stat("Actors", "Registered with the coordinator.")
                .query(gauge(&run::MEMBERS, r#"program="actor""#), "actors"),
            Panel::lines("Up, by process", "1 while its admin port answers.")
                .query(series("up", CHOSEN), "{{name}}")
                .zero_based()
                .up_to(1.0)
                .sized(12, 8),
            Panel::lines("Members by program", "Registered with the coordinator.")
                .query(gauge(&run::MEMBERS, ""), "{{program}}")
                .zero_based()
                .sized(12, 8),
        ],
    }
}

fn failures() -> Row {
    Row {
        title: "Failures",
        panels: vec![
            Panel::lines(
                "Members that left",
                "Told to (ordered), failed, failed over a number that is not finite, or lost: gone \
                 without a word.",
            )
            .query(sum("how", &increase(&run::DEPARTURES, "")), "{{how}}")
            .zero_based(),
            Panel::lines("Processes started again", "By `launch`, after they ended unasked.")
                .query(sum("program", &increase(&run::RESTARTS, "")), "{{program}}")
                .zero_based(),
            Panel::lines(
                "Calls answered with an error",
                "By the coordinator. Some belong to every start and stop.",
            )
            .query(sum("code", &rate(&run::RPC_ERRORS, "")), "{{code}}")
            .unit(Unit::PerSecond)
            .zero_based(),
            Panel::lines(
                "Steps undone",
                "Since the run began: the learner went on from an earlier checkpoint.",
            )
            .query(total(&run::ROLLED_BACK, ""), "undone")
            .zero_based(),
            Panel::lines(
                "Weights refused",
                "By the coordinator when published, by actors when fetched.",
            )
            .query(increase(&run::PUBLICATIONS, r#"outcome="refused""#), "published")
            .query(sum("", &increase(&actors::WEIGHTS_REFUSED, "")), "fetched")
            .zero_based(),
            Panel::lines("Calls answered with an error, by call", "The same by what was called.")
                .query(sum("rpc", &rate(&run::RPC_ERRORS, "")), "{{rpc}}")
                .unit(Unit::PerSecond)
                .zero_based(),
        ],
    }
}

fn work() -> Row {
    Row {
        title: "Work",
        panels: vec![
            Panel::lines("Groups under a lease", "Dealt, and neither delivered nor given back.")
                .query(gauge(&run::LEASES_OPEN, ""), "{{purpose}}")
                .zero_based(),
            Panel::lines("Training groups", "By what happened to them.")
                .query(rate(&run::GROUPS, r#"purpose="train""#), "{{outcome}}")
                .unit(Unit::PerSecond)
                .zero_based(),
            Panel::lines("Evaluation groups", "By what happened to them.")
                .query(rate(&run::GROUPS, r#"purpose="eval""#), "{{outcome}}")
                .unit(Unit::PerSecond)
                .zero_based(),
        ],
    }
}

fn weights() -> Row {
    Row {
        title: "Weights",
        panels: vec![
            Panel::lines(
                "Version by process",
                "Step of the weights: published by the learner, kept by the coordinator, in place at \
                 each actor. Actors follow within a step or two.",
            )
            .query(max("", &gauge(&learner::POLICY_STEP, "")), "learner")
            .query(gauge(&run::POLICY_STEP, ""), "coordinator")
            .query(gauge(&actors::POLICY_STEP, CHOSEN), "{{name}}")
            .zero_based()
            .sized(12, 8),
            Panel::lines(
                "Generation by process",
                "Of the learner's ranks; it grows when they form anew, and may skip numbers.",
            )
            .query(max("", &gauge(&learner::POLICY_GENERATION, "")), "learner")
            .query(gauge(&run::POLICY_GENERATION, ""), "coordinator")
            .query(gauge(&actors::POLICY_GENERATION, CHOSEN), "{{name}}")
            .zero_based()
            .sized(12, 8),
            Panel::lines("Weights kept", "All versions that the coordinator keeps.")
                .query(gauge(&run::WEIGHTS, ""), "kept")
                .unit(Unit::Bytes)
                .zero_based(),
            Panel::stack(
                "Versions fetched",
                "By actors: as files where they share a disk with the learner, else as streams.",
            )
            .query(sum("way", &rate(&actors::WEIGHTS_FETCHED, "")), "{{way}}")
            .unit(Unit::PerSecond),
            Panel::lines("Versions put in place", "By each actor.")
                .query(rate(&actors::WEIGHT_SWAPS, CHOSEN), "{{name}}")
                .unit(Unit::PerSecond)
                .zero_based(),
        ],
    }
}

fn resources() -> Row {
    let process = |what: &str| series(&format!("process_{what}"), CHOSEN);
    Row {
        title: "What the processes use",
        panels: vec![
            Panel::stack("CPU", "By process.")
                .query(rate_of("process_cpu_seconds_total", CHOSEN), "{{name}}")
                .unit(Unit::Cores),
            Panel::stack("Resident memory", "By process.")
                .query(process("resident_memory_bytes"), "{{name}}")
                .unit(Unit::Bytes),
            Panel::lines("Threads", "By process.")
                .query(process("threads"), "{{name}}")
                .zero_based(),
            Panel::lines("Open files", "Over how many may be open.")
                .query(format!("{} / {}", process("open_fds"), process("max_fds")), "{{name}}")
                .unit(Unit::Share),
            Panel::lines("Age", "Since the process started: a fall is a restart.")
                .query(format!("time() - {}", process("start_time_seconds")), "{{name}}")
                .unit(Unit::Seconds)
                .zero_based(),
            Panel::lines("Disk free", "Where the run directory lies (checkpoint.free_bytes_min).")
                .query(gauge(&run::DISK_FREE, ""), "coordinator")
                .query(gauge(&learner::DISK_FREE, ""), "{{name}}")
                .unit(Unit::Bytes)
                .zero_based(),
            Panel::lines(
                "Numbers for trackers",
                "Of TensorBoard and MLflow (track.*), in the window. Dropped ones are in metrics.jsonl all \
                 the same.",
            )
            .query(
                sum("tracker, outcome", &increase(&run::TRACK_POINTS, "")),
                "{{tracker}}, {{outcome}}",
            )
            .zero_based(),
        ],
    }
}
