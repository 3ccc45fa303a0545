//! What the engine's thread and the tasks around it hand to each other. All of it travels through
//! bounded channels; who acts on it is decided elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Decoder;
use proto::{Open, ReturnReason, SpanWritten, WorkItem};
use types::{Epoch, GroupId, PolicyVersion, Purpose, RolloutGroup, TokenId};

/// Names a rollout while it is being written, in this process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutId(pub u64);

/// To the engine.
pub enum Command {
    /// Verified weights, to be put in place before the next token is sampled.
    Weights {
        decoder: Decoder,
        version: PolicyVersion,
    },
    /// Leases, granted no earlier than `asked`.
    Work {
        items: Vec<WorkItem>,
        asked: Instant,
    },
    Spans(Vec<SpanOutcome>),
}

/// From the engine to the weak source.
#[derive(Clone, Debug)]
pub enum WeakWork {
    /// All spans of one tick.
    Ask(Vec<SpanAsk>),
    /// These rollouts are over, or given up.
    Close(Vec<RolloutId>),
}

/// A rollout's turn is the weak model's.
#[derive(Clone, Debug)]
pub struct SpanAsk {
    pub rollout: RolloutId,
    pub open: Arc<Open>,
    /// Response tokens that the weak server has from earlier spans.
    pub known: u32,
    /// The whole response so far, so that the request can be repeated on a fresh session.
    pub response: Vec<TokenId>,
    /// When the rollout's lease ends: nobody waits for the span any longer.
    pub until: Instant,
}

/// How an ask ended.
#[derive(Clone, Debug)]
pub struct SpanOutcome {
    pub rollout: RolloutId,
    /// Or why the rollout's group must be given up.
    pub result: Result<SpanTaken, String>,
}

#[derive(Clone, Debug)]
pub struct SpanTaken {
    /// Response position of the first of `written.append_logprobs`.
    pub from: u32,
    pub written: SpanWritten,
    /// Since the ask.
    pub latency: Duration,
    pub retries: u32,
}

/// A group that has ended.
#[derive(Clone, Debug)]
pub enum Ended {
    Complete(RolloutGroup),
    Failed(FailedGroup),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedGroup {
    pub group: GroupId,
    pub epoch: Epoch,
    pub purpose: Purpose,
    pub reason: ReturnReason,
    pub detail: String,
}

/// From the engine to the coordinator.
#[derive(Clone, Debug)]
pub enum Report {
    Evaluated(RolloutGroup),
    Failed(FailedGroup),
}

/// The engine's state as others need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Slots that new rollouts may take.
    pub free: u32,
    /// Rollouts taken in so far.
    pub admitted: u64,
    pub version: Option<PolicyVersion>,
}
