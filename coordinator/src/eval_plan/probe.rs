//! The probe before a run on GSM8K: does the weak model follow plain solutions better than
//! annotated ones? Where it does not, training with it has no reason to change the style.

use serde::{Deserialize, Serialize};
use settings::{Settings, SolutionStyle};
use tandem::Schedule;

use super::{Arm, ArmKind, EvalPlan, EvalRun, sampling};
use crate::intervals::{Estimate, paired_difference};
use crate::source::{Extent, Lead};

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The weak model alone, after half a gold solution.
    pub weak_after: Contrast,
    /// Both models under training's schedule, after one line of a gold solution.
    pub tandem_led: Contrast,
}

/// Accuracies over the same problems and keys, by our grader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    pub plain: f64,
    pub annotated: f64,
    /// Mean over problems of plain − annotated, with its 95% interval.
    pub difference: f64,
    pub low: f64,
    pub high: f64,
}

/// What a probe says of the run to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval of `tandem_led` lies above 0: plain style pays.
    PlainPays,
    /// It contains 0: no effect is to be expected.
    NoEffectExpected,
    /// It lies below 0: annotations pay, and training would add to them.
    AnnotationsPay,
}

impl Contrast {
    fn of(plain: &[f64], annotated: &[f64], seed: u64) -> Option<Self> {
        let Estimate { value: difference, low, high } = paired_difference(plain, annotated, seed)?;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { plain: mean(plain), annotated: mean(annotated), difference, low, high })
    }

    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.low > 0.0 {
            Verdict::PlainPays
        } else if self.high < 0.0 {
            Verdict::AnnotationsPay
        } else {
            Verdict::NoEffectExpected
        }
    }
}

impl Probe {
    /// As a person reads it, with the warning where there is one.
    #[must_use]
    pub fn lines(&self) -> String {
        let row = |name: &str, contrast: &Contrast| {
            let Contrast { plain, annotated, difference, low, high } = contrast;
            format!(
                "{name:<34}  {plain:>9.3}  {annotated:>9.3}  {difference:>+10.3} [{low:+.3}, {high:+.3}]\n"
            )
        };
        let mut text = format!(
            "{:<34}  {:>9}  {:>9}  {:>10} [95% interval]\n",
            "accuracy after gold", "plain", "annotated", "difference"
        );
        text.push_str(&row("weak alone, after half a solution", &self.weak_after));
        text.push_str(&row("tandem, led into a style", &self.tandem_led));
        text.push_str(match self.tandem_led.verdict() {
            Verdict::PlainPays => "the plain style pays in tandem: expect annotations to go\n",
            Verdict::NoEffectExpected => {
                "warning: the difference's interval contains 0, so no effect is to be expected\n"
            }
            Verdict::AnnotationsPay => {
                "warning: annotations pay in tandem, so training would add to them\n"
            }
        });
        text
    }
}

impl EvalPlan {
    /// The probe's arms; `schedule` is training's.
    #[must_use]
    pub fn probe(settings: &Settings, problems: u32, schedule: Schedule) -> Self {
        let styles = [SolutionStyle::Plain, SolutionStyle::Annotated];
        let arm = |kind, schedule, style, extent| {
            let sampling = sampling(settings, 1.0);
            let lead = Some(Lead { style, extent });
            Arm { kind, schedule, sampling, samples: settings.eval.samples, lead }
        };
        let weak = styles
            .map(|style| arm(ArmKind::WeakAfter(style), Schedule::WEAK_ALONE, style, Extent::Half));
        let tandem =
            styles.map(|style| arm(ArmKind::TandemLed(style), schedule, style, Extent::FirstLine));
        Self::of(settings, problems, weak.into_iter().chain(tandem).collect())
    }
}

impl EvalRun {
    /// `None` where no probe was asked for, or there was no problem.
    pub(super) fn probe(&self) -> Option<Probe> {
        let shares = |kind: &ArmKind| {
            let arm = self.plan.arms.iter().position(|arm| arm.kind == *kind)?;
            Some(self.marks[arm].shares())
        };
        let contrast = |kind: fn(SolutionStyle) -> ArmKind| {
            let plain = shares(&kind(SolutionStyle::Plain))?;
            let annotated = shares(&kind(SolutionStyle::Annotated))?;
            Contrast::of(&plain, &annotated, self.plan.seed)
        };
        let (weak_after, tandem_led) =
            (contrast(ArmKind::WeakAfter)?, contrast(ArmKind::TandemLed)?);
        Some(Probe { weak_after, tandem_led })
    }
}
