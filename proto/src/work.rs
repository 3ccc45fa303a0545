//! What the coordinator and its members say to each other, as domain types.

use std::collections::BTreeMap;
use std::time::Duration;

use types::{
    Epoch, Generation, GroupId, LeaseId, MemberId, PolicyVersion, Problem, Purpose, Sampling,
};

/// What a process does in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Actor,
    WeakServer,
    Learner,
}

impl Role {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Actor => "actor",
            Self::WeakServer => "weak-server",
            Self::Learner => "learner",
        }
    }

    /// Of one of its processes, for people and files.
    #[must_use]
    pub fn name_of(self, index: u32) -> String {
        format!("{}-{index}", self.name())
    }
}

/// A process that reports for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Of this process and no other, as long as it lives.
    pub member: MemberId,
    pub role: Role,
    /// Among the processes of its role, from 0; none: the coordinator chooses.
    pub index: Option<u32>,
    /// `host:port` where peers reach it; empty for an actor.
    pub address: String,
    pub admin_address: String,
    /// `host:port` where the previous rank reaches a learner; empty for others.
    pub ring_address: String,
    /// Of the last ranks that it heard of, perhaps from a coordinator that is gone; 0 for none.
    pub generation: Generation,
}

impl Registration {
    #[must_use]
    pub fn name(&self) -> String {
        self.index.map_or_else(|| self.role.name().to_owned(), |index| self.role.name_of(index))
    }
}

/// The state of the run as a member needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// The current weights; none before the first publication.
    pub version: Option<PolicyVersion>,
    /// None while a rank of the learner is missing.
    pub formation: Option<Formation>,
    pub weak_servers: Vec<String>,
    /// Finish or abandon what is in hand and exit 0.
    pub stop: bool,
}

/// The learner's ranks, in their order, as one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    pub generation: Generation,
    /// Steps committed when it formed.
    pub committed: u32,
    /// Checkpoints of other runs are not gone on from.
    pub run: u64,
    pub ranks: Vec<Rank>,
}

/// Where one rank is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// By actors.
    pub address: String,
    /// By the previous rank.
    pub ring_address: String,
}

/// One leased group to write.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkItem {
    pub lease: LeaseId,
    pub group: GroupId,
    pub epoch: Epoch,
    /// From the moment of the grant.
    pub deadline: Duration,
    pub purpose: Purpose,
    /// Written form, for instance `word:0.25`; `token:0` is the strong model alone.
    pub schedule: String,
    pub samples: u32,
    /// The group number in the random keys: in training `group`, or its replacement's; an
    /// evaluation draws the same before and after.
    pub key_group: GroupId,
    pub problem: Problem,
    pub sampling: Sampling,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    pub member: MemberId,
    pub max_rollouts: u32,
    pub applied_version: Option<PolicyVersion>,
    /// Leases whose groups were delivered since the last ask.
    pub completed: Vec<Completion>,
}

/// A group was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub lease: LeaseId,
    /// Of the ranks that took it; what earlier ones took they may have lost.
    pub generation: Generation,
}

/// Why a group was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReturnReason {
    /// The actor could not finish it.
    Failed,
    /// No actor of this run can write it, whatever it tries.
    Impossible,
    /// Too old when its step's batch formed.
    Stale,
    /// The learner's replay disagreed.
    Refused,
    /// It teaches nothing and another problem is to take its place (`train.refill`).
    Replaced,
}

impl ReturnReason {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Impossible => "impossible",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Replaced => "replaced",
        }
    }
}

/// How a member ends that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Departure {
    /// It was told to stop, or its work is done.
    Ordered,
    Failed,
    /// It failed because a number is not finite.
    NotFinite,
}

impl Departure {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Failed => "failed",
            Self::NotFinite => "not_finite",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnedGroup {
    pub member: MemberId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub purpose: Purpose,
    pub reason: ReturnReason,
    pub detail: String,
}

/// The learner's answer to one delivered group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub group: GroupId,
    pub epoch: Epoch,
    pub code: ReceiptCode,
    pub reason: String,
    /// Of the ranks when they decided.
    pub generation: Generation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReceiptCode {
    Accepted,
    Duplicate,
    Refused,
    Replaced,
}

/// One committed step: a line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRecord {
    pub member: MemberId,
    /// Steps taken, this one included.
    pub step: u32,
    pub version: PolicyVersion,
    /// The groups that made it; none where examples did.
    pub groups: Vec<GroupId>,
    pub groups_trained: u32,
    pub groups_zero_variance: u32,
    /// Since the last record.
    pub groups_stale: u32,
    pub duplicates_refused: u32,
    pub strong_tokens: u64,
    pub weak_tokens: u64,
    /// Finite numbers by name: loss, reward, jargon rate, seconds by phase.
    pub values: BTreeMap<String, f64>,
    /// Directory name under `checkpoints/`, where one was written.
    pub checkpoint: Option<String>,
}
