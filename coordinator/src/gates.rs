//! What the result of supervised fine-tuning must reach. How it is measured is `sft`'s.

use settings::Gates;

use crate::eval_plan::EvalResult;

/// One condition with what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    pub name: &'static str,
    pub found: Option<f64>,
    pub low: f64,
    pub high: f64,
}

impl Gate {
    /// What was not measured does not pass.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.found.is_some_and(|found| (self.low..=self.high).contains(&found))
    }

    /// For a person.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { name, low, high, .. } = self;
        let verdict = if self.holds() { "ok" } else { "MISSED" };
        let found = self.found.map_or_else(|| "–".to_owned(), |found| format!("{found:.4}"));
        format!("{name:<34} {found:>7}  wanted {low} to {high}  {verdict}")
    }
}

/// The gates that can fail; bounds of 0 and 1 always hold.
#[must_use]
pub fn gates(settings: &Gates, result: &EvalResult) -> Vec<Gate> {
    let gate = |name, found, low, high| Gate { name, found, low, high };
    let all = [
        gate(
            "sampled, jargon tokens banned",
            result.plain_solo_accuracy,
            settings.plain_solo_min,
            1.0,
        ),
        gate("sampled", result.solo_accuracy, settings.solo_min, settings.solo_max),
        gate("jargon rate", result.jargon_rate, settings.jargon_min, settings.jargon_max),
    ];
    all.into_iter().filter(|gate| gate.low > 0.0 || gate.high < 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_bounded_is_a_gate_and_the_unmeasured_fails() {
        let settings = Gates { plain_solo_min: 0.99, jargon_max: 0.9, ..Gates::default() };
        let mut result = EvalResult { solo_accuracy: Some(0.1), ..EvalResult::default() };
        result.jargon_rate = Some(0.9);
        let found = gates(&settings, &result);
        let verdicts: Vec<_> = found.iter().map(|gate| (gate.name, gate.holds())).collect();
        assert_eq!(verdicts, [("sampled, jargon tokens banned", false), ("jargon rate", true)]);
        result.plain_solo_accuracy = Some(0.9905);
        assert!(gates(&settings, &result)[0].holds());
        assert!(gates(&settings, &result)[0].line().ends_with("0.9905  wanted 0.99 to 1  ok"));
    }
}
