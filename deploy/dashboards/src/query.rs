//! PromQL over declared metrics. All of it is of one run: the variable `job` of every dashboard.

use telemetry::{Counter, Gauge, Histogram, Metric};

/// The run under view.
const RUN: &str = r#"job="$job""#;

/// The processes under view, where a dashboard lets one choose.
pub(crate) const CHOSEN: &str = r#"role=~"$role",name=~"$name""#;

/// The window of a rate: Grafana makes it wide enough for the scrape interval.
const WINDOW: &str = "[$__rate_interval]";

/// The series of a name in this run, with further matchers.
pub(crate) fn series(name: &str, matchers: &str) -> String {
    let separator = if matchers.is_empty() { "" } else { "," };
    format!("{name}{{{RUN}{separator}{matchers}}}")
}

pub(crate) fn gauge(gauge: &Gauge, matchers: &str) -> String {
    series(gauge.name(), matchers)
}

/// As the process counted it since it started.
pub(crate) fn total(counter: &Counter, matchers: &str) -> String {
    series(counter.name(), matchers)
}

pub(crate) fn rate(counter: &Counter, matchers: &str) -> String {
    rate_of(counter.name(), matchers)
}

pub(crate) fn rate_of(name: &str, matchers: &str) -> String {
    format!("rate({}{WINDOW})", series(name, matchers))
}

/// How often in the window.
pub(crate) fn increase(counter: &Counter, matchers: &str) -> String {
    format!("increase({}{WINDOW})", series(counter.name(), matchers))
}

/// The labels may be none.
pub(crate) fn sum(by: &str, expression: &str) -> String {
    aggregate("sum", by, expression)
}

pub(crate) fn max(by: &str, expression: &str) -> String {
    aggregate("max", by, expression)
}

fn aggregate(how: &str, by: &str, expression: &str) -> String {
    let by = if by.is_empty() { String::new() } else { format!(" by ({by}) ") };
    format!("{how}{by}({expression})")
}

/// The quotient, where there is anything to divide by.
pub(crate) fn ratio(part: &str, whole: &str) -> String {
    format!("{part} / ({whole} > 0)")
}

/// Each part's share of all, by one label.
pub(crate) fn share(by: &str, counter: &Counter, matchers: &str) -> String {
    let rate = rate(counter, matchers);
    format!("{} / on () group_left () (sum({rate}) > 0)", sum(by, &rate))
}

/// Of what was recorded in the window.
pub(crate) fn mean(by: &str, histogram: &Histogram, matchers: &str) -> String {
    let part = |part: &str| sum(by, &rate_of(&format!("{}_{part}", histogram.name()), matchers));
    ratio(&part("sum"), &part("count"))
}

/// Of what was recorded in the window.
pub(crate) fn quantile(q: f64, histogram: &Histogram, matchers: &str) -> String {
    let buckets = rate_of(&format!("{}_bucket", histogram.name()), matchers);
    format!("histogram_quantile({q}, {})", sum("le", &buckets))
}
