//! The Prometheus recorder of the process and its buckets. Without buckets a histogram would be
//! rendered as a summary, which cannot be added up over processes, so there is no such case.

use anyhow::Context;
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// Buckets by the suffix of the metric's name, for the units that every binary measures.
pub const SUFFIX_BUCKETS: &[(&str, &[f64])] = &[
    (
        "_seconds",
        &[
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            30.0, 60.0, 300.0,
        ],
    ),
    ("_rows", &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
    ("_tokens", &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0]),
    ("_bytes", &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10]),
    ("_ratio", &[0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]),
    ("_versions", &[0.0, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0]),
];

/// Buckets of a histogram whose suffix is in no table.
const OTHER_BUCKETS: &[f64] =
    &[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10_000.0];

/// Renders what was recorded. Clones render the same.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
}

impl Exporter {
    /// Makes this the recorder of the process. `buckets` are (suffix, upper bounds) beside, or
    /// in place of, [`SUFFIX_BUCKETS`]. Fails when the process has a recorder already.
    pub fn install(buckets: &[(&str, &[f64])]) -> anyhow::Result<Self> {
        let (recorder, exporter) = Self::build(buckets)?;
        metrics::set_global_recorder(recorder)
            .ok()
            .context("cannot install the metrics recorder, the process has one already")?;
        Ok(exporter)
    }

    /// A recorder that is not installed, for `metrics::with_local_recorder` in tests.
    pub fn build(buckets: &[(&str, &[f64])]) -> anyhow::Result<(PrometheusRecorder, Self)> {
        let mut builder = PrometheusBuilder::new()
            .set_buckets(OTHER_BUCKETS)
            .context("the fallback buckets are empty")?;
        for (suffix, bounds) in SUFFIX_BUCKETS.iter().chain(buckets) {
            builder = builder
                .set_buckets_for_metric(Matcher::Suffix((*suffix).to_owned()), bounds)
                .with_context(|| format!("the buckets of metrics in {suffix} are empty"))?;
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Ok((recorder, Self { handle }))
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds raw histogram samples into their buckets. Without it, every few seconds, samples
    /// pile up in memory between two renderings.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;

    use super::*;
    use crate::{Histogram, Metric};

    static LATENCY: Histogram =
        Histogram::new("tandem_weak_server_span_seconds", "Time to write one span.");
    static BATCH: Histogram = Histogram::new("tandem_actor_decode_rows", "Rows of one decode.");
    static ODD: Histogram = Histogram::new("tandem_learner_gradient_norm", "Norm before clipping.");

    fn rendered(buckets: &[(&str, &[f64])]) -> String {
        let (recorder, exporter) = Exporter::build(buckets).expect("no bucket list is empty");
        with_local_recorder(&recorder, || {
            for histogram in [&LATENCY, &BATCH, &ODD] {
                histogram.describe();
            }
            LATENCY.record(0.004, &[]);
            LATENCY.record(1000.0, &[]);
            BATCH.record(3.0, &[]);
            ODD.record(0.5, &[]);
        });
        exporter.upkeep();
        exporter.render()
    }

    fn has_line(page: &str, line: &str) {
        assert!(page.lines().any(|l| l == line), "{line}\nis missing in\n{page}");
    }

    #[test]
    fn histograms_have_the_buckets_of_their_unit_and_are_never_summaries() {
        let page = rendered(&[]);
        has_line(&page, "# HELP tandem_weak_server_span_seconds Time to write one span.");
        has_line(&page, "# TYPE tandem_weak_server_span_seconds histogram");
        has_line(&page, "tandem_weak_server_span_seconds_bucket{le=\"0.0025\"} 0");
        has_line(&page, "tandem_weak_server_span_seconds_bucket{le=\"0.005\"} 1");
        has_line(&page, "tandem_weak_server_span_seconds_bucket{le=\"+Inf\"} 2");
        has_line(&page, "tandem_weak_server_span_seconds_sum 1000.004");
        has_line(&page, "tandem_actor_decode_rows_bucket{le=\"4\"} 1");
        has_line(&page, "# TYPE tandem_learner_gradient_norm histogram");
        has_line(&page, "tandem_learner_gradient_norm_bucket{le=\"1\"} 1");
        assert!(!page.contains("summary") && !page.contains("quantile"), "{page}");
    }

    #[test]
    fn a_binary_may_replace_and_add_buckets() {
        let page = rendered(&[("_seconds", &[2.0]), ("_norm", &[0.25, 0.75])]);
        has_line(&page, "tandem_weak_server_span_seconds_bucket{le=\"2\"} 1");
        assert!(!page.contains("tandem_weak_server_span_seconds_bucket{le=\"0.005\"}"), "{page}");
        has_line(&page, "tandem_learner_gradient_norm_bucket{le=\"0.75\"} 1");
        let failure = Exporter::build(&[("_norm", &[])]).err().expect("no bucket at all");
        assert_eq!(failure.to_string(), "the buckets of metrics in _norm are empty");
    }
}
