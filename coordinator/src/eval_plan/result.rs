//! What an evaluation found, as files and tables show it. How it is counted is `eval_plan`'s.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

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

/// What an evaluation found; the `E` of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EvalResult {
    pub problems: u32,
    pub solo_accuracy: Option<f64>,
    pub solo_accuracy_greedy: Option<f64>,
    pub tandem_accuracy: BySchedule,
    pub handoff_success_rate: BySchedule,
    pub jargon_rate: Option<f64>,
    pub weak_solo_accuracy: Option<f64>,
    /// Whether the problems are the test set's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub test_set: bool,
    /// By arm, grader and k.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_at: Vec<PassAt>,
    /// Whether the weak model can follow one style better than the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Only the gates measure it.
    #[serde(skip)]
    pub plain_solo_accuracy: Option<f64>,
}

impl EvalResult {
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
