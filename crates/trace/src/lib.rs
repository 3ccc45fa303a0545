//! Which work belongs together, across processes: spans, the `traceparent` header by which a call
//! carries its own (W3C Trace Context, level 1), and their way to a collector. Log lines and metrics
//! belong to `telemetry`.

mod export;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use export::{Exporting, start};

/// Spans have it as their target, so that log filters pass over them.
pub const TARGET: &str = "span";

/// A piece of work of this process.
#[must_use]
pub fn doing(name: &'static str) -> Span {
    tracing::trace_span!(target: TARGET, "work", otel.name = name)
}

/// A call to another process, from its side who calls.
#[must_use]
pub fn calling(name: &'static str) -> Span {
    tracing::trace_span!(target: TARGET, "call", otel.name = name, otel.kind = "client")
}

/// The same call where it is answered. `path` is as HTTP/2 has it, `/package.Service/Method`.
#[must_use]
pub fn answering(path: &str, headers: &HeaderMap) -> Span {
    let span = tracing::trace_span!(
        target: TARGET,
        "answer",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "server"
    );
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    // Refused only where nothing records spans.
    let _ = span.set_parent(parent);
    span
}

/// Puts the present span into a call's headers; nothing where there is none.
pub fn inject(put: impl FnMut(&'static str, String)) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Put(put));
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct Put<F>(F);

impl<F: FnMut(&'static str, String)> Injector for Put<F> {
    fn set(&mut self, key: &str, value: String) {
        let known = match key {
            "traceparent" => "traceparent",
            "tracestate" if !value.is_empty() => "tracestate",
            _ => return,
        };
        (self.0)(known, value);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn injected() -> Option<String> {
        let mut found = None;
        inject(|key, value| found = (key == "traceparent").then_some(value).or(found.take()));
        found
    }

    fn recorded<T>(body: impl FnOnce() -> T) -> T {
        let (layer, _exporting) = start("test");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), body)
    }

    #[test]
    fn a_call_goes_on_with_the_trace_that_came_with_the_one_it_serves() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", GIVEN.parse().unwrap());
        let carried = recorded(|| {
            let _serving = answering("/tandem.v1.Some/Call", &headers).entered();
            let _calling = calling("other").entered();
            injected().unwrap()
        });
        let parts: Vec<&str> = carried.split('-').collect();
        assert_eq!(
            (parts[0], parts[1], parts[3]),
            ("00", "4bf92f3577b34da6a3ce929d0e0e4736", "01")
        );
        assert_ne!(parts[2], "00f067aa0ba902b7", "the call is a span of its own");
    }

    #[test]
    fn without_a_parent_a_call_begins_a_trace_and_without_a_span_nothing_is_carried() {
        let (alone, one, other) = recorded(|| {
            let begin = || calling("one").in_scope(|| injected().unwrap());
            (injected(), begin(), begin())
        });
        assert_eq!(alone, None);
        assert_ne!(one.split('-').nth(1), other.split('-').nth(1));
    }

    #[test]
    fn a_malformed_parent_is_none() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", "00-zz-1-01".parse().unwrap());
        let carried = recorded(|| answering("/a", &headers).in_scope(|| injected().unwrap()));
        assert_eq!(carried.split('-').nth(1).map(str::len), Some(32), "{carried}");
    }
}
