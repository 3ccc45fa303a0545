//! One micro-batch forwards and backwards: through one graph of everything, or block by block.
//! The loss in between is not computed here.

use std::collections::BTreeSet;

use candle_core::{DType, Tensor, Var};
use grpo::{Error, Gradients, Parameters};
use model::{Decoder, GradientSink, Recompute, Scoring};

/// Log-probabilities with a way back to the variables.
pub(super) enum Pass {
    /// `[N]`, with the whole graph.
    Graph(Tensor),
    Blocks {
        pass: Box<Recompute>,
        /// `[N]`, where the loss's graph ends.
        logprobs: Var,
    },
}

impl Pass {
    /// Tokens `[B,T]`, selected positions and targets, both `[N]`.
    pub(super) fn forward(
        policy: &Decoder,
        (tokens, select, targets): (&Tensor, &Tensor, &Tensor),
        scoring: &Scoring,
        by_blocks: bool,
    ) -> anyhow::Result<Self> {
        if !by_blocks {
            return Ok(Self::Graph(policy.logprobs(tokens, select, targets, scoring)?));
        }
        let pass = Box::new(policy.logprobs_by_blocks(tokens, select, targets, scoring)?);
        let logprobs = Var::from_tensor(pass.logprobs())?;
        Ok(Self::Blocks { pass, logprobs })
    }

    pub(super) fn logprobs(&self) -> &Tensor {
        match self {
            Self::Graph(logprobs) => logprobs,
            Self::Blocks { logprobs, .. } => logprobs,
        }
    }

    /// Adds the gradients of a loss of these log-probabilities.
    pub(super) fn backward(
        self,
        loss: &Tensor,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> anyhow::Result<()> {
        let store = loss.backward()?;
        let Self::Blocks { pass, logprobs } = self else {
            return Ok(gradients.accumulate(parameters, &store)?);
        };
        let name = || "log-probabilities".to_owned();
        let slopes = store.get(&logprobs).ok_or_else(|| Error::MissingGradient { name: name() })?;
        let slopes: Vec<f64> = slopes.to_dtype(DType::F64)?.to_vec1()?;
        let mut sink = Sink { gradients, met: BTreeSet::new() };
        pass.backward(&slopes, &mut sink)?;
        let met = sink.met;
        if let Some((name, _)) = parameters.iter().find(|(name, _)| !met.contains(*name)) {
            return Err(Error::MissingGradient { name: name.to_owned() }.into());
        }
        Ok(gradients.check_finite()?)
    }
}

/// The flat buffer, and which variables something has come for.
struct Sink<'a> {
    gradients: &'a mut Gradients,
    met: BTreeSet<String>,
}

impl GradientSink for Sink<'_> {
    fn add(&mut self, name: &str, first: usize, part: &Tensor) -> candle_core::Result<()> {
        if !self.met.contains(name) {
            self.met.insert(name.to_owned());
        }
        self.gradients.add(name, first, part).map_err(candle_core::Error::wrap)
    }

    fn add_rows(&mut self, name: &str, rows: &[u32], part: &Tensor) -> candle_core::Result<()> {
        self.met.insert(name.to_owned());
        self.gradients.add_rows(name, rows, part).map_err(candle_core::Error::wrap)
    }
}
