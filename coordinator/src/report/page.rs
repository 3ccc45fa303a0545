//! The page: what its parts found, in one template. Everything that a run wrote is escaped; charts
//! escape for themselves.

use anyhow::Context;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use super::record::{Record, RunState};
use super::{curves, heldout, phases, robustness, samples, tables};

const TEMPLATE: &str = include_str!("page.html");

/// What the page says of one run at its top.
#[derive(Debug, Serialize)]
struct Run {
    name: String,
    state: String,
    /// A class of the page.
    kind: &'static str,
    description: String,
    headline: Option<heldout::Headline>,
}

pub(super) fn page(records: &[Record]) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("page", TEMPLATE).context("the report's template")?;
    let runs: Vec<Run> = records.iter().map(run).collect();
    let title = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
    let page = environment.get_template("page")?.render(context! {
        title,
        runs,
        heldout => heldout::charts(records),
        robustness => robustness::robustness(records),
        curves => curves::charts(records),
        phases => phases::bars(records),
        parts => tables::comparison(records),
        during => tables::during(records),
        samples => samples::samples(records),
        version => env!("CARGO_PKG_VERSION"),
    });
    page.context("the report's template")
}

fn run(record: &Record) -> Run {
    let (committed, due) = (record.committed(), record.settings.train.steps);
    let (kind, state) = match record.state {
        RunState::Done => ("done", format!("done, {committed} steps")),
        RunState::UnderWay => ("live", format!("under way, step {committed} of {due}")),
        RunState::Stopped => ("stopped", format!("stopped after step {committed} of {due}")),
    };
    Run {
        name: record.name.clone(),
        state,
        kind,
        description: tables::description(record),
        headline: heldout::headline(record),
    }
}
