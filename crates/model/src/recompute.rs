//! The training forward and backward by blocks: only what enters each block is kept, and the
//! backward pass, from the last block to the first, computes a block again before it goes through
//! it. Gradients leave at once, so that no second set of them is held. Where they are summed is
//! the caller's.

use candle_core::{Tensor, Var};

use crate::block::enter;
use crate::ops::HeadPlan;
use crate::train::Batch;
use crate::{Decoder, ModelError, Scoring};

/// Where the gradients of a backward pass by blocks go; each variable may come in several parts.
pub trait GradientSink {
    /// Adds `part` to the gradient of the variable from row `first` on.
    ///
    /// # Errors
    /// No such variable, or a part that does not fit it.
    fn add(&mut self, name: &str, first: usize, part: &Tensor) -> candle_core::Result<()>;

    /// Adds row i of `part`, `[n,d]`, to row `rows[i]` of the gradient.
    ///
    /// # Errors
    /// As [`GradientSink::add`].
    fn add_rows(&mut self, name: &str, rows: &[u32], part: &Tensor) -> candle_core::Result<()>;
}

/// A forward pass that can be gone through backwards.
pub struct Recompute {
    decoder: Decoder,
    /// `[N]`, without a graph.
    logprobs: Tensor,
    plan: HeadPlan,
    /// None where no position is selected.
    kept: Option<Kept>,
}

struct Kept {
    batch: Batch,
    /// What entered each block, in their order.
    entered: Vec<Tensor>,
    /// What left the last, `[N,d]`.
    left: Tensor,
}

impl Decoder {
    /// The same values as [`Self::logprobs`].
    ///
    /// # Errors
    /// As [`Self::logprobs`].
    pub fn logprobs_by_blocks(
        &self,
        tokens: &Tensor,
        select: &Tensor,
        targets: &Tensor,
        scoring: &Scoring,
    ) -> Result<Recompute, ModelError> {
        let plan = self.head_plan(select, targets, scoring)?;
        let decoder = self.clone();
        let Some(batch) = self.prepare(tokens, select)? else {
            let logprobs = Tensor::zeros(0, self.dtype(), self.device())?;
            return Ok(Recompute { decoder, logprobs, plan, kept: None });
        };
        let mut entered = Vec::with_capacity(self.config().layers);
        let mut h = self.embed(&batch)?.detach();
        for index in 0..self.config().layers {
            let left = self.block(&batch, index, &h)?.detach();
            entered.push(std::mem::replace(&mut h, left));
        }
        let hidden = self.norm().forward(&h)?.detach();
        let logprobs = plan.forward(&hidden, &self.head_matrix()?.detach())?;
        let kept = Some(Kept { batch, entered, left: h });
        Ok(Recompute { decoder, logprobs, plan, kept })
    }
}

impl Recompute {
    /// `[N]`, without a graph.
    #[must_use]
    pub fn logprobs(&self) -> &Tensor {
        &self.logprobs
    }

    /// Hands the gradients of a loss to `sink`, which has `slopes` towards the `[N]`
    /// log-probabilities. What gets no gradient does not come.
    ///
    /// # Errors
    /// Another number of slopes, or what `sink` says.
    pub fn backward(self, slopes: &[f64], sink: &mut dyn GradientSink) -> Result<(), ModelError> {
        let Self { decoder, logprobs, plan, kept } = self;
        let (found, expected) = (slopes.len(), logprobs.elem_count());
        if found != expected {
            let what = format!("{found} slopes for {expected} log-probabilities");
            return Err(ModelError::Input(what));
        }
        let Some(Kept { batch, entered, left }) = kept else { return Ok(()) };
        let left = Var::from_tensor(&left)?;
        let hidden = decoder.norm().forward(&left)?;
        let grad = decoder.head_backward(&plan, &hidden.detach(), slopes, sink)?;
        let mut grad = decoder.leave(&left, &hidden, &grad, sink)?;
        for (index, h) in entered.into_iter().enumerate().rev() {
            let h = Var::from_tensor(&h)?;
            let left = decoder.block(&batch, index, &h)?;
            grad = decoder.leave(&h, &left, &grad, sink)?;
        }
        if let Some(name) = decoder.variable_name(decoder.embedding().dense()?) {
            // Entering multiplies by a constant, and so does going back.
            let grad = enter(grad, decoder.config())?;
            sink.add_rows(name, &batch.ids.to_vec1()?, &grad)?;
        }
        Ok(())
    }
}

impl Decoder {
    /// The gradient of what the head reads, `[N,d]`; the head's own goes to `sink`.
    fn head_backward(
        &self,
        plan: &HeadPlan,
        hidden: &Tensor,
        slopes: &[f64],
        sink: &mut dyn GradientSink,
    ) -> candle_core::Result<Tensor> {
        let head = self.head_matrix()?.detach();
        match self.variable_name(self.head_matrix()?) {
            None => plan.backward((hidden, &head), slopes, None),
            Some(name) => {
                let mut add = |first: usize, part: &Tensor| sink.add(name, first, part);
                plan.backward((hidden, &head), slopes, Some(&mut add))
            }
        }
    }

    /// Goes back from what left to what `entered`, given the gradient of the former. Gives the
    /// latter's, those of variables go to `sink`.
    fn leave(
        &self,
        entered: &Var,
        left: &Tensor,
        grad: &Tensor,
        sink: &mut dyn GradientSink,
    ) -> candle_core::Result<Tensor> {
        let mut store = left.mul(grad)?.sum_all()?.backward()?;
        for (name, variable) in self.variables() {
            if let Some(grad) = store.remove(variable) {
                sink.add(name, 0, &grad)?;
            }
        }
        match store.remove(entered) {
            Some(grad) => Ok(grad),
            None => entered.zeros_like(),
        }
    }
}
