//! Metrics as typed statics: name, help and every label value are declared once, so that each
//! series exists from the start and a ratio of counters never misses its first increment.
//! Values go to whatever recorder the process installed.

use metrics::{Key, Label, Level, Metadata, Recorder, SharedString, Unit, with_recorder};
use thiserror::Error;

/// A label and all its values: `("outcome", &["correct", "wrong"])`. Values come from enums,
/// never from ids, which would make a series each. No values at all stand for an open set that a
/// setting bounds, such as the evaluation schedules; its series do not exist from the start.
pub type Dimension = (&'static str, &'static [&'static str]);

/// One label with its value.
pub type LabelPair<'a> = (&'a str, &'a str);

/// The programs that may own a metric; the first word, or words, after `tandem_`.
const COMPONENTS: [&str; 5] = ["actor", "learner", "weak_server", "weak", "coordinator"];

/// Words of a name that Prometheus' own lint refuses: other than base units, and kinds.
const REFUSED_WORDS: [&str; 24] = [
    "ms",
    "us",
    "ns",
    "sec",
    "secs",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "minutes",
    "hours",
    "days",
    "kb",
    "mb",
    "gb",
    "kib",
    "mib",
    "gib",
    "kilobytes",
    "megabytes",
    "percent",
    "counter",
    "gauge",
    "histogram",
    "summary",
];

/// Endings that the exposition format keeps for the parts of a histogram.
const RESERVED_ENDINGS: [&str; 4] = ["_count", "_sum", "_bucket", "_info"];

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// What a binary lists in `describe`.
pub trait Metric: Sync {
    fn name(&self) -> &'static str;
    /// Registers help and unit, and creates the series that exist from the start.
    fn describe(&self);
    /// Whether name and help obey the law of names.
    fn check(&self) -> Result<(), NameFault>;
}

/// Registers every metric of a binary; call it once, right after `Exporter::install`.
pub fn describe(all: &[&dyn Metric]) {
    for metric in all {
        metric.describe();
    }
}

/// A number that only grows. Its name ends in `_total`.
#[derive(Debug)]
pub struct Counter(Declaration);

impl Counter {
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Declaration { name, help, dimensions: &[] })
    }

    /// Declares the labels; the series of all their values start at zero.
    pub const fn with_labels(self, dimensions: &'static [Dimension]) -> Self {
        Self(Declaration { dimensions, ..self.0 })
    }

    /// The series with these labels, to be kept where it is touched often.
    pub fn with(&self, labels: &[LabelPair]) -> metrics::Counter {
        let key = self.0.key(labels);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }

    pub fn increment(&self, n: u64, labels: &[LabelPair]) {
        self.with(labels).increment(n);
    }
}

impl Metric for Counter {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn describe(&self) {
        self.0.describe(Kind::Counter, |recorder, name, unit, help| {
            recorder.describe_counter(name, unit, help);
        });
        for labels in self.0.combinations() {
            self.with(&labels).increment(0);
        }
    }

    fn check(&self) -> Result<(), NameFault> {
        self.0.check(Kind::Counter)
    }
}

/// A number that goes up and down. It has no series before its first value, since a zero would
/// be a false reading.
#[derive(Debug)]
pub struct Gauge(Declaration);

impl Gauge {
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Declaration { name, help, dimensions: &[] })
    }

    pub const fn with_labels(self, dimensions: &'static [Dimension]) -> Self {
        Self(Declaration { dimensions, ..self.0 })
    }

    pub fn with(&self, labels: &[LabelPair]) -> metrics::Gauge {
        let key = self.0.key(labels);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    pub fn set(&self, value: f64, labels: &[LabelPair]) {
        self.with(labels).set(value);
    }

    /// Adds `change`, which may be negative.
    pub fn add(&self, change: f64, labels: &[LabelPair]) {
        self.with(labels).increment(change);
    }
}

impl Metric for Gauge {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn describe(&self) {
        self.0.describe(Kind::Gauge, |recorder, name, unit, help| {
            recorder.describe_gauge(name, unit, help);
        });
    }

    fn check(&self) -> Result<(), NameFault> {
        self.0.check(Kind::Gauge)
    }
}

/// A distribution; its buckets follow from the suffix of its name (see `Exporter::install`).
#[derive(Debug)]
pub struct Histogram(Declaration);

impl Histogram {
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Declaration { name, help, dimensions: &[] })
    }

    pub const fn with_labels(self, dimensions: &'static [Dimension]) -> Self {
        Self(Declaration { dimensions, ..self.0 })
    }

    pub fn with(&self, labels: &[LabelPair]) -> metrics::Histogram {
        let key = self.0.key(labels);
        with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
    }

    pub fn record(&self, value: f64, labels: &[LabelPair]) {
        self.with(labels).record(value);
    }
}

impl Metric for Histogram {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn describe(&self) {
        self.0.describe(Kind::Histogram, |recorder, name, unit, help| {
            recorder.describe_histogram(name, unit, help);
        });
        for labels in self.0.combinations() {
            // Being registered is enough: it is rendered with a count of zero.
            drop(self.with(&labels));
        }
    }

    fn check(&self) -> Result<(), NameFault> {
        self.0.check(Kind::Histogram)
    }
}

#[derive(Debug)]
struct Declaration {
    name: &'static str,
    help: &'static str,
    dimensions: &'static [Dimension],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What Prometheus calls the process that it asks: of its own, a metric must not have them.
const TARGET_LABELS: [&str; 4] = ["job", "instance", "role", "name"];

type Describe = fn(&dyn Recorder, metrics::KeyName, Option<Unit>, SharedString);

impl Declaration {
    /// The series with these labels, in whatever order they are given.
    fn key(&self, labels: &[LabelPair]) -> Key {
        debug_assert!(
            self.accepts(labels),
            "{} has the labels {:?}, not {labels:?}",
            self.name,
            self.dimensions
        );
        let in_order = self.dimensions.iter().filter_map(|(name, values)| {
            let (_, value) = labels.iter().find(|(given, _)| given == name)?;
            Some(match values.iter().find(|declared| *declared == value) {
                Some(declared) => Label::from_static_parts(name, declared),
                None => Label::new(*name, (*value).to_owned()),
            })
        });
        Key::from_parts(self.name, in_order.collect::<Vec<_>>())
    }

    fn accepts(&self, labels: &[LabelPair]) -> bool {
        labels.len() == self.dimensions.len()
            && self.dimensions.iter().all(|(name, values)| {
                let given = labels.iter().find(|(given, _)| given == name);
                given.is_some_and(|(_, value)| values.is_empty() || values.contains(value))
            })
    }

    fn check(&self, kind: Kind) -> Result<(), NameFault> {
        check(self.name, self.help, kind)?;
        let taken = self.dimensions.iter().find(|(label, _)| TARGET_LABELS.contains(label));
        taken.map_or(Ok(()), |(label, _)| Err(NameFault::Label(self.name.to_owned(), label)))
    }

    fn describe(&self, kind: Kind, describe: Describe) {
        debug_assert_eq!(self.check(kind), Ok(()));
        let (name, help) = (self.name.into(), self.help.into());
        with_recorder(|recorder| describe(recorder, name, Some(unit_of(self.name)), help));
    }

    /// Every combination of label values; one empty combination without labels, none with an
    /// open set among them.
    fn combinations(&self) -> Vec<Vec<LabelPair<'static>>> {
        let mut all = vec![Vec::new()];
        for (name, values) in self.dimensions {
            let longer = all.iter().flat_map(|shorter: &Vec<LabelPair<'static>>| {
                values.iter().map(|value| {
                    let mut labels = shorter.clone();
                    labels.push((*name, *value));
                    labels
                })
            });
            all = longer.collect();
        }
        all
    }
}

/// A name, or a help text, that breaks the law `tandem_<component>_<what>_<unit>`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameFault {
    #[error("{0} does not begin with tandem_ and one of {COMPONENTS:?}")]
    Prefix(String),
    #[error("{0} holds something else than lower-case words of letters and digits")]
    Words(String),
    #[error("{0} must end in _total if and only if it is a counter")]
    Total(String),
    #[error("{0} holds the word {1}, which is a kind of metric or not a base unit")]
    Word(String, String),
    #[error("{0} ends in {1}, which the exposition format keeps for itself")]
    Ending(String, &'static str),
    #[error("{0} has the label {1}, which Prometheus gives to the process that it asks")]
    Label(String, &'static str),
    #[error("{0} has no help text")]
    Help(String),
}

/// The law of names, for the tests of every `metrics.rs`; `describe` asserts it in debug builds.
pub fn check_name(metric: &dyn Metric) -> Result<(), NameFault> {
    metric.check()
}

fn check(name: &str, help: &str, kind: Kind) -> Result<(), NameFault> {
    let name_owned = || name.to_owned();
    let what = name.strip_prefix("tandem_").and_then(|rest| {
        COMPONENTS.iter().find_map(|component| rest.strip_prefix(component)?.strip_prefix('_'))
    });
    let what = what.ok_or_else(|| NameFault::Prefix(name_owned()))?;
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if !what.split('_').all(is_word) {
        return Err(NameFault::Words(name_owned()));
    }
    if what.ends_with("_total") != (kind == Kind::Counter) || what == "total" {
        return Err(NameFault::Total(name_owned()));
    }
    if let Some(word) = what.split('_').find(|word| REFUSED_WORDS.contains(word)) {
        return Err(NameFault::Word(name_owned(), word.to_owned()));
    }
    if let Some(ending) = RESERVED_ENDINGS.iter().find(|ending| name.ends_with(**ending)) {
        return Err(NameFault::Ending(name_owned(), ending));
    }
    if help.trim().is_empty() {
        return Err(NameFault::Help(name_owned()));
    }
    Ok(())
}

fn unit_of(name: &str) -> Unit {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => Unit::Seconds,
        Some("bytes") => Unit::Bytes,
        _ => Unit::Count,
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;

    use super::*;
    use crate::Exporter;

    static ROLLOUTS: Counter = Counter::new("tandem_actor_rollouts_total", "Rollouts ended.")
        .with_labels(&[("handoff", &["yes", "no"]), ("outcome", &["correct", "wrong"])]);
    static EVICTIONS: Counter =
        Counter::new("tandem_weak_server_evictions_total", "Sessions evicted.");
    static SLOTS: Gauge = Gauge::new("tandem_actor_slots", "Slots by what they wait for.")
        .with_labels(&[("state", &["strong", "weak"])]);
    static STEP: Histogram = Histogram::new("tandem_learner_step_seconds", "Time of one step.")
        .with_labels(&[("phase", &["forward", "update"])]);
    static ACCURACY: Gauge =
        Gauge::new("tandem_coordinator_accuracy_ratio", "Accuracy of the last evaluation.")
            .with_labels(&[("schedule", &[])]);

    fn page(body: impl FnOnce()) -> String {
        let (recorder, exporter) = Exporter::build(&[]).expect("no bucket list is empty");
        with_local_recorder(&recorder, || {
            describe(&[&ROLLOUTS, &EVICTIONS, &SLOTS, &STEP, &ACCURACY]);
            body();
        });
        exporter.render()
    }

    fn has_line(page: &str, line: &str) {
        assert!(page.lines().any(|l| l == line), "{line}\nis missing in\n{page}");
    }

    #[test]
    fn counters_and_histograms_exist_from_the_start_and_gauges_do_not() {
        let page = page(|| {});
        has_line(&page, "# HELP tandem_actor_rollouts_total Rollouts ended.");
        has_line(&page, "# TYPE tandem_actor_rollouts_total counter");
        for labels in [
            r#"{handoff="yes",outcome="correct"}"#,
            r#"{handoff="yes",outcome="wrong"}"#,
            r#"{handoff="no",outcome="correct"}"#,
            r#"{handoff="no",outcome="wrong"}"#,
        ] {
            has_line(&page, &format!("tandem_actor_rollouts_total{labels} 0"));
        }
        has_line(&page, "tandem_weak_server_evictions_total 0");
        has_line(&page, r#"tandem_learner_step_seconds_count{phase="update"} 0"#);
        has_line(&page, r#"tandem_learner_step_seconds_bucket{phase="update",le="1"} 0"#);
        assert!(!page.contains("tandem_actor_slots"), "{page}");
    }

    #[test]
    fn values_reach_their_series_whatever_the_order_of_the_labels() {
        let page = page(|| {
            ROLLOUTS.increment(2, &[("handoff", "yes"), ("outcome", "wrong")]);
            ROLLOUTS.increment(3, &[("outcome", "wrong"), ("handoff", "yes")]);
            SLOTS.set(4.0, &[("state", "weak")]);
            SLOTS.add(-1.5, &[("state", "weak")]);
            STEP.record(0.2, &[("phase", "forward")]);
            let schedule = String::from("token:0.25");
            ACCURACY.set(0.875, &[("schedule", &schedule)]);
        });
        has_line(&page, r#"tandem_actor_rollouts_total{handoff="yes",outcome="wrong"} 5"#);
        has_line(&page, r#"tandem_actor_slots{state="weak"} 2.5"#);
        has_line(&page, r#"tandem_learner_step_seconds_sum{phase="forward"} 0.2"#);
        has_line(&page, r#"tandem_coordinator_accuracy_ratio{schedule="token:0.25"} 0.875"#);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "tandem_actor_rollouts_total has the labels")]
    fn an_undeclared_label_value_is_a_fault() {
        ROLLOUTS.increment(1, &[("handoff", "yes"), ("outcome", "group-17")]);
    }

    #[test]
    fn the_law_of_names() {
        use Kind::{Counter, Gauge, Histogram};
        let check = |name: &str, kind, expected: Result<(), NameFault>| {
            assert_eq!(check(name, "Help.", kind), expected, "{name}");
        };
        let good = |name, kind| check(name, kind, Ok(()));
        good("tandem_actor_rollouts_total", Counter);
        good("tandem_weak_server_span_seconds", Histogram);
        good("tandem_coordinator_policy_step", Gauge);

        let owned = str::to_owned;
        let prefix = |name| check(name, Gauge, Err(NameFault::Prefix(owned(name))));
        prefix("relay_actor_slots");
        prefix("tandem_trainer_slots");
        prefix("tandem_actor");
        let words = |name| check(name, Gauge, Err(NameFault::Words(owned(name))));
        words("tandem_actor_freeSlots");
        words("tandem_actor__slots");
        words("tandem_actor_");
        let total = |name, kind| check(name, kind, Err(NameFault::Total(owned(name))));
        total("tandem_actor_rollouts", Counter);
        total("tandem_actor_slots_total", Gauge);
        total("tandem_actor_total", Counter);
        let word = |name, bad: &str| {
            check(name, Gauge, Err(NameFault::Word(owned(name), owned(bad))));
        };
        word("tandem_weak_server_span_ms", "ms");
        word("tandem_actor_queue_gauge", "gauge");
        let name = "tandem_actor_slot_count";
        check(name, Gauge, Err(NameFault::Ending(owned(name), "_count")));
        let name = "tandem_actor_slots";
        let no_help = super::check(name, " ", Gauge);
        assert_eq!(no_help, Err(NameFault::Help(owned(name))));
        assert_eq!(check_name(&ROLLOUTS), Ok(()));
        static MEMBERS: super::Gauge = super::Gauge::new("tandem_coordinator_members", "Members.")
            .with_labels(&[("role", &[])]);
        let name = MEMBERS.name().to_owned();
        assert_eq!(check_name(&MEMBERS), Err(NameFault::Label(name, "role")));
    }
}
