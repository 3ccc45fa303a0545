//! All rollouts of one problem under one schedule: the unit that is leased, sent and consumed.

use crate::{Epoch, GroupId, LeaseId, Problem, Rollout};

/// What a group is for; part of its random keys, so that training never sees evaluation's draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Train,
    Eval,
}

impl Purpose {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

/// A complete group. `schedule` is its written form, for instance `word:0.25`.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutGroup {
    pub group: GroupId,
    pub epoch: Epoch,
    pub lease: LeaseId,
    pub purpose: Purpose,
    pub schedule: String,
    /// The group number in the random keys.
    pub key_group: GroupId,
    pub problem: Problem,
    pub samples: Vec<Rollout>,
}
