//! Every setting of the four programs, in one schema: defaults < file < environment < flags.
//! Owns layering, unknown keys and cross-field rules; what a setting does is decided where it is
//! used.

mod layers;
mod leaves;
mod preset;
mod prompt;
mod schema;
mod sections;
mod validate;

pub use layers::{Layers, SettingsError};
pub use preset::{PRESETS, preset};
pub use prompt::TEMPLATES;
pub use schema::Settings;
pub use sections::{
    Actor, Admin, CacheOnSwap, Checkpoint, Compute, Coordinator, Data, DataSource, Decay,
    DeviceChoice, Eval, EvalSplit, Gates, Grader, Handoff, LORA_TARGETS, Learner, Limits, Log,
    LogFormat, Lora, Model, Network, NoRoom, Objective, Placement, Precision, Prompt, Ratio,
    Recipe, Resume, Reward, Run, SamplingSettings, Security, Shutdown, SolutionStyle, Staleness,
    Store, StoreKind, StorePlace, Track, Train, TruncatedReward, WeakServer, Weights,
};
pub use validate::MESSAGE_BYTES_MIN;
