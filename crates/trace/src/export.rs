//! The recorder of spans: identities always, and a collector where there is one. Which spans there
//! are is decided where the work is.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, TracerProviderBuilder};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::TARGET;

/// What is still to be sent at the end is given up after that.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Any of them names a collector (OpenTelemetry's own variables).
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Sends what is left when it is dropped, which may take up to two seconds.
pub struct Exporting {
    provider: SdkTracerProvider,
    /// Why spans are not sent though a collector is named.
    pub fault: Option<String>,
}

impl Drop for Exporting {
    fn drop(&mut self) {
        let _ = self.provider.shutdown_with_timeout(FLUSH_MAX);
    }
}

/// Records the spans of a process, which `OTEL_SERVICE_NAME` may name otherwise.
pub fn start<S>(process: &str) -> (impl Layer<S> + Send + Sync + use<S>, Exporting)
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty());
    let resource = Resource::builder();
    let resource = match named {
        true => resource,
        false => resource.with_service_name(format!("tandem-{process}")),
    };
    let builder = SdkTracerProvider::builder().with_resource(resource.build());
    let collector = ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some());
    let (builder, fault) = match collector {
        true => to_collector(builder),
        false => (builder, None),
    };
    let provider = builder.build();
    let tracer = provider.tracer("tandem");
    let own = Targets::new().with_target(TARGET, LevelFilter::TRACE);
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(own);
    (layer, Exporting { provider, fault })
}

#[cfg(feature = "otlp")]
fn to_collector(builder: TracerProviderBuilder) -> (TracerProviderBuilder, Option<String>) {
    match opentelemetry_otlp::SpanExporter::builder().with_tonic().build() {
        Ok(exporter) => (builder.with_batch_exporter(exporter), None),
        Err(error) => (builder, Some(format!("spans are not sent: {error}"))),
    }
}

#[cfg(not(feature = "otlp"))]
fn to_collector(builder: TracerProviderBuilder) -> (TracerProviderBuilder, Option<String>) {
    let fault = "spans are not sent: build with --features otlp, or unset OTEL_EXPORTER_OTLP_*";
    (builder, Some(fault.to_owned()))
}
