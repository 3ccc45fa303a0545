//! *Serving*: where tokens come from. Actors with the strong model, weak servers with the weak one,
//! and what each waits for.

use actor::metrics as actors;
use weak_server::metrics as weak;

use crate::board::{Board, Row, Variable};
use crate::panel::{Panel, Unit};
use crate::query::{CHOSEN, gauge, increase, mean, quantile, rate, sum};

pub(super) fn board() -> Board {
    Board {
        uid: "tandem-serving",
        title: "Serving",
        description: "Batches, latencies and queues of actors and weak servers.",
        variables: vec![Variable::run(), Variable::role(), Variable::process()],
        rows: vec![weak_server(), weak_tokens(), actor(), waits()],
    }
}

fn weak_server() -> Row {
    Row {
        title: "Weak servers",
        panels: vec![
            Panel::lines(
                "Rows of a forward",
                "Of the weak model, up to weak_server.batch_rows: it lives by large batches.",
            )
            .query(mean("name", &weak::BATCH_ROWS, CHOSEN), "{{name}}, mean")
            .query(quantile(0.95, &weak::BATCH_ROWS, CHOSEN), "95%")
            .zero_based(),
            Panel::lines("Time of a forward", "With its draws.")
                .query(quantile(0.5, &weak::FORWARD_SECONDS, CHOSEN), "50%")
                .query(quantile(0.95, &weak::FORWARD_SECONDS, CHOSEN), "95%")
                .unit(Unit::Seconds)
                .zero_based(),
            Panel::lines(
                "Latency of a span",
                "From the receipt of a request to its reply, and as actors see it: retries and \
                 transport included.",
            )
            .query(quantile(0.5, &weak::SPAN_SECONDS, CHOSEN), "server, 50%")
            .query(quantile(0.95, &weak::SPAN_SECONDS, CHOSEN), "server, 95%")
            .query(quantile(0.5, &actors::SPAN_SECONDS, CHOSEN), "actor, 50%")
            .query(quantile(0.95, &actors::SPAN_SECONDS, CHOSEN), "actor, 95%")
            .unit(Unit::Seconds)
            .zero_based(),
            Panel::lines(
                "Sessions and streams",
                "Sessions hold a row of the cache (weak_server.sessions); each actor has one stream.",
            )
            .query(gauge(&weak::KV_SESSIONS, CHOSEN), "{{name}}, sessions")
            .query(gauge(&weak::STREAMS, CHOSEN), "{{name}}, streams")
            .zero_based(),
            Panel::lines(
                "Requests that wait for a row",
                "Above 0 all the time, the server is saturated.",
            )
            .query(gauge(&weak::QUEUED_REQUESTS, CHOSEN), "{{name}}")
            .zero_based(),
            Panel::lines(
                "Sessions evicted",
                "They made room for others, and are read again from the start when they are asked for.",
            )
            .query(sum("name", &increase(&weak::EVICTED_SESSIONS, CHOSEN)), "{{name}}")
            .zero_based(),
        ],
    }
}

fn weak_tokens() -> Row {
    Row {
        title: "Spans of the weak model",
        panels: vec![
            Panel::stack("Spans by what ended them", "Written for all actors.")
                .query(sum("end", &rate(&weak::SPANS, CHOSEN)), "{{end}}")
                .unit(Unit::PerSecond),
            Panel::lines("Tokens of a span", "As written, its end included.")
                .query(mean("", &weak::SPAN_TOKENS, CHOSEN), "mean")
                .query(quantile(0.95, &weak::SPAN_TOKENS, CHOSEN), "95%")
                .zero_based(),
            Panel::stack(
                "Tokens through the weak model",
                "Prompts, what the strong model wrote meanwhile (ingest), and tokens of spans (sample).",
            )
            .query(sum("phase", &rate(&weak::COMPUTED_TOKENS, CHOSEN)), "{{phase}}")
            .unit(Unit::TokensPerSecond),
            Panel::lines("Requests refused", "Answered with a fault; actors repeat most of them.")
                .query(sum("fault", &rate(&weak::REFUSED_REQUESTS, CHOSEN)), "{{fault}}")
                .unit(Unit::PerSecond)
                .zero_based(),
            Panel::lines("Streams refused", "Not opened, or closed by the server.")
                .query(sum("reason", &rate(&weak::REFUSED_STREAMS, CHOSEN)), "{{reason}}")
                .unit(Unit::PerSecond)
                .zero_based(),
            Panel::lines("Requests repeated by actors", "By the fault that made them.")
                .query(sum("fault", &rate(&actors::SPAN_RETRIES, CHOSEN)), "{{fault}}")
                .unit(Unit::PerSecond)
                .zero_based(),
        ],
    }
}

fn actor() -> Row {
    Row {
        title: "Actors",
        panels: vec![
            Panel::lines("Rows of a forward", "Of the strong model, up to actor.slots.")
                .query(mean("name", &actors::BATCH_ROWS, CHOSEN), "{{name}}, mean")
                .query(quantile(0.95, &actors::BATCH_ROWS, CHOSEN), "95%")
                .zero_based(),
            Panel::lines("Time of a forward", "Of the strong model, with its sampling.")
                .query(quantile(0.5, &actors::TICK_SECONDS, CHOSEN), "50%")
                .query(quantile(0.95, &actors::TICK_SECONDS, CHOSEN), "95%")
                .unit(Unit::Seconds)
                .zero_based(),
            Panel::stack(
                "Tokens through the strong model",
                "Computed, prompts and recomputed caches included, by actor.",
            )
            .query(sum("name", &rate(&actors::COMPUTED_TOKENS, CHOSEN)), "{{name}}")
            .unit(Unit::TokensPerSecond),
            Panel::stack("Response tokens", "Of complete groups, by author.")
                .query(sum("author", &rate(&actors::TOKENS, CHOSEN)), "{{author}}")
                .unit(Unit::TokensPerSecond),
            Panel::stack("Prompt tokens", "Of complete groups, by whether a handoff followed.")
                .query(
                    sum("handoff", &rate(&actors::PROMPT_TOKENS, CHOSEN)),
                    "handoff: {{handoff}}",
                )
                .unit(Unit::TokensPerSecond),
            Panel::stack("Groups ended", "Complete, or given up.")
                .query(
                    sum("purpose, outcome", &rate(&actors::GROUPS, CHOSEN)),
                    "{{purpose}}, {{outcome}}",
                )
                .unit(Unit::PerSecond),
        ],
    }
}

fn waits() -> Row {
    Row {
        title: "What actors wait for",
        panels: vec![
            Panel::stack(
                "Slots by what they wait for",
                "Many in `weak`: the weak servers are the bottleneck. Many free: there is too little \
                 work, or weights are too old for it.",
            )
            .query(sum("state", &gauge(&actors::SLOTS, CHOSEN)), "{{state}}"),
            Panel::lines(
                "Fill of the queues",
                "Entries over places; at 1 whoever takes from the queue is too slow.",
            )
            .query(
                format!(
                    "{} / {}",
                    gauge(&actors::QUEUED, CHOSEN),
                    gauge(&actors::QUEUE_PLACES, CHOSEN)
                ),
                "{{name}}, {{queue}}",
            )
            .unit(Unit::Share),
            Panel::lines("Receipts", "The learner's answers to delivered groups.")
                .query(sum("code", &rate(&actors::RECEIPTS, CHOSEN)), "{{code}}")
                .unit(Unit::PerSecond)
                .zero_based(),
        ],
    }
}
