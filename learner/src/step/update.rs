//! The end of a step: sums over all ranks, clipping, AdamW, on every rank alike or each on its own
//! part. What the gradients are of is not known here.

use std::cell::Cell;

use anyhow::Context;
use grpo::{AdamW, Gradients};

use super::DIVERGED;
use crate::collective::Collective;

pub(super) struct Update<'a> {
    pub(super) learning_rate: f64,
    pub(super) grad_norm_max: f64,
    /// Each rank updates its part and gets the others' from them.
    pub(super) sharded: bool,
    /// Set while some weights are of this step and some of the one before.
    pub(super) torn: &'a Cell<bool>,
}

impl Update<'_> {
    /// Gives the norm before clipping. The gradients are used up.
    ///
    /// # Errors
    /// A rank is gone, or a gradient is not finite on any of them; no weight is changed then.
    pub(super) fn take(
        &self,
        optimizer: &mut AdamW,
        gradients: &mut Gradients,
        collective: &mut dyn Collective,
    ) -> anyhow::Result<f64> {
        if self.sharded {
            return self.take_part(optimizer, gradients, collective);
        }
        match gradients.on_device() {
            Some(flat) if collective.sums_on_device() => {
                collective.all_reduce_sum_on_device(flat)?
            }
            _ if collective.world() == 1 => {}
            _ => gradients.on_host(|flat| collective.all_reduce_sum(flat))?,
        }
        let norm = gradients.clip_global_norm(self.grad_norm_max).context(DIVERGED)?;
        optimizer.step(gradients, self.learning_rate)?;
        Ok(norm)
    }

    /// The buffer of the gradients brings the other ranks' weights as well.
    fn take_part(
        &self,
        optimizer: &mut AdamW,
        gradients: &mut Gradients,
        collective: &mut dyn Collective,
    ) -> anyhow::Result<f64> {
        let part = optimizer.part().clone();
        gradients.on_host(|flat| collective.reduce_scatter_sum(flat))?;
        let mut squares = [gradients.squares_in(&part)?];
        collective.all_reduce_sum_f64(&mut squares)?;
        let norm = squares[0].sqrt();
        if !norm.is_finite() {
            gradients.check_finite_in(&part).context(DIVERGED)?;
            return Err(DIVERGED).context("a gradient is not finite in another rank's part");
        }
        gradients.clip_in(&part, norm, self.grad_norm_max)?;
        self.torn.set(true);
        optimizer.step(gradients, self.learning_rate)?;
        let parameters = optimizer.parameters();
        gradients.on_host(|flat| {
            parameters.read(&part, &mut flat[part.clone()])?;
            collective.all_gather(flat)?;
            for others in [0..part.start, part.end..flat.len()] {
                parameters.write(&others, &flat[others.clone()])?;
            }
            Ok::<(), anyhow::Error>(())
        })?;
        self.torn.set(false);
        Ok(norm)
    }
}
