//! What an evaluation found, as files and tables show it. How it is counted is `eval_plan`'s.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::{ArmKind, PassAt, Probe};

/// A number per schedule, in the order of the settings; `None` where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BySchedule(Vec<(String, Option<f64>)>);

impl BySchedule {
    pub fn push(&mut self, schedule: &str, value: Option<f64>) {
        self.0.push((schedule.to_owned(), value));
    }

    #[must_use]
    pub fn get(&self, schedule: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == schedule).and_then(|(_, value)| *value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(schedule, value)| (schedule.as_str(), *value))
    }
}

impl Serialize for BySchedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (schedule, value) in &self.0 {
            map.serialize_entry(schedule, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for BySchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = BySchedule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers by schedule")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BySchedule, A::Error> {
        let mut found = BySchedule::default();
        while let Some((schedule, value)) = map.next_entry::<String, Option<f64>>()? {
            found.push(&schedule, value);
        }
        Ok(found)
    }
}

/// What an evaluation found; the `E` of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalResult {
    pub problems: u32,
    pub solo_accuracy: Option<f64>,
    pub solo_accuracy_greedy: Option<f64>,
    pub tandem_accuracy: BySchedule,
    pub handoff_success_rate: BySchedule,
    pub jargon_rate: Option<f64>,
    pub weak_solo_accuracy: Option<f64>,
    /// Whether the problems are the test set's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test_set: bool,
    /// By arm, grader and k.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_at: Vec<PassAt>,
    /// Whether the weak model can follow one style better than the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Only the gates measure it.
    #[serde(skip)]
    pub plain_solo_accuracy: Option<f64>,
}

impl EvalResult {
    /// What was measured, by the names of `summary.json`; under a schedule, with its own after a
    /// slash.
    #[must_use]
    pub fn numbers(&self) -> Vec<(String, f64)> {
        let plain = [
            ("solo_accuracy", self.solo_accuracy),
            ("solo_accuracy_greedy", self.solo_accuracy_greedy),
            ("jargon_rate", self.jargon_rate),
            ("weak_solo_accuracy", self.weak_solo_accuracy),
        ];
        let by_schedule = [
            ("tandem_accuracy", &self.tandem_accuracy),
            ("handoff_success_rate", &self.handoff_success_rate),
        ];
        let plain = plain.into_iter().map(|(name, value)| (name.to_owned(), value));
        let by_schedule = by_schedule.into_iter().flat_map(|(name, values)| {
            values.iter().map(move |(schedule, value)| (format!("{name}/{schedule}"), value))
        });
        plain.chain(by_schedule).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Takes over what an earlier evaluation found of the frozen weak model alone, if this one left
    /// it out.
    pub fn keep_weak_solo(&mut self, earlier: &Self) {
        if self.weak_solo_accuracy.is_some() {
            return;
        }
        self.weak_solo_accuracy = earlier.weak_solo_accuracy;
        let arm = ArmKind::WeakAlone;
        self.pass_at.extend(earlier.pass_at.iter().filter(|l| l.arm == arm.name()).cloned());
    }
}
