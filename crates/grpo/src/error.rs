//! What can go wrong in the learning math. Who retries or gives up is decided by the learner.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    #[error("weight {value} of rollout {rollout} is not finite")]
    Weight { rollout: usize, value: f32 },
    #[error("token 0 of row {row} is to be learnt but nothing precedes it: give it a prompt")]
    NoPrompt { row: usize },
    #[error(
        "rollout {rollout} was sampled with {what}: its log-probabilities cannot be recomputed, \
         train on samples with temperature above 0, top-p 1 and no banned tokens"
    )]
    Sampling { rollout: usize, what: String },
    #[error(
        "rollout {rollout} was sampled at temperature {found}, others of its batch at {expected}"
    )]
    Temperature { rollout: usize, found: f32, expected: f32 },
    #[error(
        "rollout {rollout} has tokens of step {sampled}, later than the current step {current}"
    )]
    FromTheFuture { rollout: usize, sampled: u32, current: u32 },
    #[error("{what}: {found} entries where {expected} are needed")]
    Length { what: &'static str, found: usize, expected: usize },
    #[error("{what} of token {index} is {value}, not a finite number")]
    TokenNotFinite { what: &'static str, index: usize, value: f64 },
    #[error("the loss denominator is {0}: a step without strong tokens has no loss")]
    Denominator(f64),
    #[error("loss setting `{name}` is {value}: {range}")]
    Setting { name: &'static str, value: f64, range: &'static str },
    #[error("the loss has a kl coefficient of {kl} but no log-probabilities of the run's start")]
    NoReference { kl: f64 },
    #[error("variable `{name}` has no gradient: an operation without a backward pass hides it")]
    MissingGradient { name: String },
    #[error("there is no variable `{name}` to add a gradient to")]
    UnknownVariable { name: String },
    #[error("gradient of `{name}` has a value that is not finite")]
    GradientNotFinite { name: String },
    #[error("variable `{name}` is {dtype}: the optimiser keeps f32 (or f64) masters, cast outside")]
    Dtype { name: String, dtype: String },
    #[error("optimiser state has no `{name}`: it was saved for another model")]
    StateMissing { name: String },
    #[error("optimiser state has `{name}`, which no variable owns: it was saved for another model")]
    StateUnexpected { name: String },
    #[error("optimiser state `{name}` is {found}, expected {expected}")]
    StateShape { name: String, found: String, expected: String },
    #[error("optimiser state `{name}` has a value that is not finite")]
    StateNotFinite { name: String },
}
