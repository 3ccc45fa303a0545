//! Log lines on standard error, for a person or for a machine. Log files and their rotation
//! belong to whoever started the process.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use anyhow::Context;
use trace::Exporting;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt};

const DEFAULT_FILTER: &str = "info";

#[derive(Clone, Copy, Debug)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Sends the process's log lines to standard error, each with the name `process`. `filter` is in
/// the syntax of `tracing_subscriber::EnvFilter`; empty means `info`. Fails on a filter that
/// does not parse and when the process logs already. Spans are recorded beside them, as long as
/// what is returned lives.
pub fn init_logging(format: LogFormat, filter: &str, process: &str) -> anyhow::Result<Exporting> {
    let colours = io::stderr().is_terminal();
    start(lines_layer(format, process, colours, io::stderr), filter, process)
}

/// The same into a file, for a process whose terminal is for something else.
pub fn init_file_logging(
    format: LogFormat,
    filter: &str,
    process: &str,
    file: File,
) -> anyhow::Result<Exporting> {
    start(lines_layer(format, process, false, Arc::new(file)), filter, process)
}

fn start(
    lines: Box<dyn Layer<Registry> + Send + Sync>,
    filter: &str,
    process: &str,
) -> anyhow::Result<Exporting> {
    let (spans, exporting) = trace::start(process);
    Registry::default()
        .with(lines.with_filter(parse_filter(filter)?))
        .with(spans)
        .try_init()
        .context("cannot start logging, the process logs already")?;
    if let Some(fault) = &exporting.fault {
        tracing::warn!(fault);
    }
    Ok(exporting)
}

fn parse_filter(filter: &str) -> anyhow::Result<EnvFilter> {
    let filter = if filter.trim().is_empty() { DEFAULT_FILTER } else { filter };
    EnvFilter::try_new(filter)
        .with_context(|| format!("log.filter {filter:?} is not like info or warn,actor=debug"))
}

fn lines_layer<S, W>(
    format: LogFormat,
    process: &str,
    colours: bool,
    writer: W,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let process = process.to_owned();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    match format {
        LogFormat::Text => lines.map_event_format(|inner| TextOfProcess { process, inner }).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .map_event_format(|inner| JsonOfProcess { process, inner })
            .boxed(),
    }
}

/// A text line with the name of the process in front.
struct TextOfProcess<F> {
    process: String,
    inner: F,
}

impl<S, N, F> FormatEvent<S, N> for TextOfProcess<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.process)?;
        self.inner.format_event(context, writer, event)
    }
}

/// A JSON line with the name of the process as its first key.
struct JsonOfProcess<F> {
    process: String,
    inner: F,
}

impl<S, N, F> FormatEvent<S, N> for JsonOfProcess<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = String::new();
        self.inner.format_event(context, Writer::new(&mut object), event)?;
        // Debug quoting is valid JSON for the plain names that processes have.
        write!(writer, "{{\"process\":{:?},", self.process)?;
        writer.write_str(object.strip_prefix('{').ok_or(fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let page = Page::default();
        let to_page = page.clone();
        let lines = lines_layer(format, "actor-0", false, move || to_page.clone());
        let subscriber = Registry::default().with(lines.with_filter(parse_filter(filter).unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("too small");
            tracing::warn!(lease_id = 7, "lease renewal failed");
        });
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_lines_carry_process_level_fields_and_no_colours() {
        let page = logged(LogFormat::Text, "");
        assert_eq!(page.lines().count(), 1, "{page}");
        assert!(page.starts_with("actor-0 "), "{page}");
        assert!(page.contains(" WARN ") && page.contains("lease renewal failed"), "{page}");
        assert!(page.contains("lease_id=7"), "{page}");
        assert!(!page.contains('\u{1b}'), "{page}");
    }

    #[test]
    fn json_lines_are_objects_that_begin_with_the_process() {
        let page = logged(LogFormat::Json, "debug");
        assert_eq!(page.lines().count(), 2, "{page}");
        let last = page.lines().last().unwrap();
        assert!(last.starts_with("{\"process\":\"actor-0\",\"timestamp\":"), "{last}");
        assert!(last.contains("\"message\":\"lease renewal failed\""), "{last}");
        assert!(last.contains("\"lease_id\":7"), "{last}");
        assert!(last.ends_with('}'), "{last}");
    }

    #[test]
    fn a_filter_that_does_not_exist_is_refused() {
        let failure = parse_filter("actor=loud").expect_err("there is no such level");
        assert!(failure.to_string().contains("\"actor=loud\""), "{failure}");
    }
}
