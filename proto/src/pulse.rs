//! What processes tell of themselves, and what the coordinator tells of all of them, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use types::{MemberId, PolicyVersion};

/// Waits of one pulse, and characters of each: the longest waits come first, and more say little.
pub const WAITS_MAX: usize = 16;
pub const WAIT_CHARS_MAX: usize = 200;

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    pub member: MemberId,
    /// Since the process last got something done.
    pub idle: Duration,
    /// The longest first.
    pub waits: Vec<Wait>,
}

/// What a process waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub what: String,
    pub since: Duration,
    /// `None`: as long as a run may stall.
    pub limit: Option<Duration>,
}

/// The run at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inspection {
    pub phase: String,
    pub committed: u32,
    /// 0 where nothing is trained.
    pub steps: u32,
    pub version: Option<PolicyVersion>,
    /// Since the last step, group or evaluation rollout.
    pub idle: Duration,
    /// What the run waits for.
    pub waits: Vec<String>,
    pub members: Vec<MemberView>,
    /// Of the last committed step, by name.
    pub values: BTreeMap<String, f64>,
    pub measured: Option<Measured>,
    /// Rollouts of the evaluation under way that are done and due.
    pub evaluating: Option<(u64, u64)>,
}

/// What the last evaluation found, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    pub step: u32,
    pub values: BTreeMap<String, f64>,
}

/// One process, as far as the coordinator knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberView {
    pub name: String,
    pub admin_address: String,
    /// Since its last pulse; `None`: there was none yet.
    pub silent: Option<Duration>,
    pub idle: Duration,
    /// Groups that it has.
    pub leases: u32,
    pub waits: Vec<Wait>,
}
