//! Prometheus' rules: what dashboards and alerts share, computed once, and when somebody is to be
//! told. How it reaches that somebody is an Alertmanager's business.

mod alerts;
mod cases;
mod records;
mod text;

pub(crate) use cases::{cases, samples};
pub(crate) use text::{rules_text, tests_text};

pub(crate) use records::{
    HELD_OUT_HANDOFF, HELD_OUT_JARGON, HELD_OUT_QUOTIENT, HELD_OUT_SOLO, HELD_OUT_TANDEM,
};

/// An expression under a name of its own.
#[derive(Clone, Debug)]
pub struct Record {
    pub name: &'static str,
    pub expression: String,
}

/// What somebody should look at.
#[derive(Clone, Debug)]
pub struct Alert {
    pub name: &'static str,
    pub expression: String,
    /// For how long it must hold before anyone is told.
    pub lasts: &'static str,
    pub severity: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
}

/// Rules that are evaluated together.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: &'static str,
    pub records: Vec<Record>,
    pub alerts: Vec<Alert>,
}

/// All of them, records before the alerts that use them.
#[must_use]
pub fn groups() -> Vec<Group> {
    vec![
        Group { name: "tandem", records: records::records(), alerts: Vec::new() },
        Group { name: "tandem-alerts", records: Vec::new(), alerts: alerts::alerts() },
    ]
}
