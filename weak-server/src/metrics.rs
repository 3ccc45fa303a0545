//! What the weak server measures. Values come from the engine's thread and from `service`.

use metrics::{Counter as CounterSeries, Gauge as GaugeSeries};
use proto::{SpanFault, SpanReply};
use telemetry::{Counter, Gauge, Histogram, Metric};
use types::SpanEnd;

use crate::SpanStop;
use crate::batcher::{Answer, Batcher, Counts};

pub static COMPUTED_TOKENS: Counter = Counter::new(
    "tandem_weak_server_computed_tokens_total",
    "Tokens that went through the weak model: prompts, chunks of unseen response tokens, and \
     sampled tokens within a span.",
)
.with_labels(&[("phase", &["prompt", "ingest", "sample"])]);

pub static BATCH_ROWS: Histogram =
    Histogram::new("tandem_weak_server_batch_rows", "Rows of one forward of the weak model.");

pub static FORWARD_SECONDS: Histogram =
    Histogram::new("tandem_weak_server_forward_seconds", "Time of one forward with its draws.");

pub static SPANS: Counter =
    Counter::new("tandem_weak_server_spans_total", "Spans written, by what stopped them.")
        .with_labels(&[("end", &["boundary", "max_gap", "end", "limit", "deadline"])]);

pub static SPAN_SECONDS: Histogram = Histogram::new(
    "tandem_weak_server_span_seconds",
    "From the receipt of a request to its reply, where a span was asked for.",
);

pub static SPAN_TOKENS: Histogram =
    Histogram::new("tandem_weak_server_span_tokens", "Tokens of one span.");

pub static REFUSED_REQUESTS: Counter =
    Counter::new("tandem_weak_server_refused_requests_total", "Requests answered with a fault.")
        .with_labels(&[(
            "fault",
            &["unknown_session", "prefix", "invalid", "overloaded", "deadline"],
        )]);

pub static REFUSED_STREAMS: Counter = Counter::new(
    "tandem_weak_server_refused_streams_total",
    "Streams that were not opened or were closed: a hello of other models, too many streams, a \
     malformed message, or an actor that does not read its replies.",
)
.with_labels(&[("reason", &["hello", "full", "malformed", "unread"])]);

pub static EVICTED_SESSIONS: Counter = Counter::new(
    "tandem_weak_server_evicted_sessions_total",
    "Sessions that had to make room for others.",
);

pub static QUEUED_REQUESTS: Gauge =
    Gauge::new("tandem_weak_server_queued_requests", "Requests that wait for a row of the batch.");

pub static KV_SESSIONS: Gauge =
    Gauge::new("tandem_weak_server_kv_sessions", "Sessions that hold a row of the cache.");

pub static STREAMS: Gauge =
    Gauge::new("tandem_weak_server_streams", "Actors' streams that are open.");

/// For `telemetry::describe`.
pub static ALL: &[&dyn Metric] = &[
    &COMPUTED_TOKENS,
    &BATCH_ROWS,
    &FORWARD_SECONDS,
    &SPANS,
    &SPAN_SECONDS,
    &SPAN_TOKENS,
    &REFUSED_REQUESTS,
    &REFUSED_STREAMS,
    &EVICTED_SESSIONS,
    &QUEUED_REQUESTS,
    &KV_SESSIONS,
    &STREAMS,
];

/// The series that every tick touches, looked up once.
pub(crate) struct Meters {
    phases: [CounterSeries; 3],
    evicted: CounterSeries,
    queued: GaugeSeries,
    sessions: GaugeSeries,
    rows: metrics::Histogram,
    forward: metrics::Histogram,
    span_seconds: metrics::Histogram,
    span_tokens: metrics::Histogram,
    published: Counts,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let phase = |phase| COMPUTED_TOKENS.with(&[("phase", phase)]);
        Self {
            phases: ["prompt", "ingest", "sample"].map(phase),
            evicted: EVICTED_SESSIONS.with(&[]),
            queued: QUEUED_REQUESTS.with(&[]),
            sessions: KV_SESSIONS.with(&[]),
            rows: BATCH_ROWS.with(&[]),
            forward: FORWARD_SECONDS.with(&[]),
            span_seconds: SPAN_SECONDS.with(&[]),
            span_tokens: SPAN_TOKENS.with(&[]),
            published: Counts::default(),
        }
    }

    pub(crate) fn forward(&self, rows: usize, seconds: f64) {
        self.rows.record(rows as f64);
        self.forward.record(seconds);
    }

    pub(crate) fn answer(&self, answer: &Answer) {
        let SpanReply { result, .. } = &answer.reply;
        match (result, answer.stop) {
            (Err(failure), _) => {
                REFUSED_REQUESTS.increment(1, &[("fault", fault_label(failure.fault))]);
            }
            (Ok(written), Some(stop)) => {
                SPANS.increment(1, &[("end", stop_label(stop))]);
                self.span_seconds.record((written.queued + written.computed).as_secs_f64());
                self.span_tokens.record(written.tokens.len() as f64);
            }
            (Ok(_), None) => {}
        }
    }

    pub(crate) fn totals(&mut self, batcher: &Batcher) {
        let (now, before) = (batcher.counts(), self.published);
        let [prompt, ingest, sample] = &self.phases;
        prompt.increment(now.computed.prompt - before.computed.prompt);
        ingest.increment(now.computed.ingest - before.computed.ingest);
        sample.increment(now.computed.sample - before.computed.sample);
        self.evicted.increment(now.evictions - before.evictions);
        self.queued.set(batcher.waiting() as f64);
        self.sessions.set(batcher.sessions() as f64);
        self.published = now;
    }
}

fn fault_label(fault: SpanFault) -> &'static str {
    match fault {
        SpanFault::UnknownSession => "unknown_session",
        SpanFault::Prefix => "prefix",
        SpanFault::Invalid => "invalid",
        SpanFault::Overloaded => "overloaded",
        SpanFault::Deadline => "deadline",
    }
}

fn stop_label(stop: SpanStop) -> &'static str {
    match stop {
        SpanStop::Ended(SpanEnd::Boundary) => "boundary",
        SpanStop::Ended(SpanEnd::MaxGap) => "max_gap",
        SpanStop::Ended(SpanEnd::End) => "end",
        SpanStop::Ended(SpanEnd::Limit) => "limit",
        SpanStop::Deadline => "deadline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_obey_the_law() {
        for metric in ALL {
            assert_eq!(telemetry::check_name(*metric), Ok(()));
        }
    }

    #[test]
    fn every_series_starts_at_zero_under_its_label() {
        let (recorder, exporter) = telemetry::Exporter::build(&[]).unwrap();
        metrics::with_local_recorder(&recorder, || telemetry::describe(ALL));
        let text = exporter.render();
        for line in [
            "tandem_weak_server_computed_tokens_total{phase=\"ingest\"} 0",
            "tandem_weak_server_spans_total{end=\"max_gap\"} 0",
            "tandem_weak_server_refused_requests_total{fault=\"unknown_session\"} 0",
            "tandem_weak_server_batch_rows_count 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
