//! The learning rate as a function of the step.

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    Constant,
    /// Half a cosine from the peak to `floor` × peak, which is reached at `steps` (counted from
    /// the start of the run, warm-up included) and kept. A run may stop earlier.
    Cosine {
        steps: u64,
        floor: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    pub peak: f64,
    /// Linear rise from peak / `warmup_steps` at step 0 to the peak.
    pub warmup_steps: u64,
    pub decay: Decay,
}

impl LearningRate {
    /// For the update that turns version `step` into `step` + 1.
    #[must_use]
    pub fn lr_at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let Decay::Cosine { steps, floor } = self.decay else { return self.peak };
        if step >= steps {
            return self.peak * floor;
        }
        let done = (step - self.warmup_steps) as f64 / (steps - self.warmup_steps) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.peak * (floor + (1.0 - floor) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rate: &LearningRate, step: u64, expected: f64) {
        let found = rate.lr_at(step);
        assert!((found - expected).abs() < 1e-12, "step {step}: {found} for {expected}");
    }

    #[test]
    fn constant_after_warm_up() {
        let rate = LearningRate { peak: 0.4, warmup_steps: 4, decay: Decay::Constant };
        for (step, expected) in [(0, 0.1), (1, 0.2), (3, 0.4), (4, 0.4), (1000, 0.4)] {
            check(&rate, step, expected);
        }
        check(&LearningRate { warmup_steps: 0, ..rate }, 0, 0.4);
    }

    #[test]
    fn cosine_falls_to_its_floor_and_stays() {
        let decay = Decay::Cosine { steps: 110, floor: 0.05 };
        let rate = LearningRate { peak: 1.0, warmup_steps: 10, decay };
        let quarter = 0.05 + 0.95 * 0.5 * (1.0 + 0.5_f64.sqrt());
        for (step, expected) in
            [(9, 1.0), (10, 1.0), (35, quarter), (60, 0.525), (110, 0.05), (999, 0.05)]
        {
            check(&rate, step, expected);
        }
        let all_warm_up = LearningRate {
            peak: 1.0,
            warmup_steps: 10,
            decay: Decay::Cosine { steps: 5, floor: 0.5 },
        };
        check(&all_warm_up, 10, 0.5);
    }
}
