//! The messages between the coordinator and its members, and the learner's receipts.

use std::time::Duration;

use types::{Epoch, Generation, GroupId, LeaseId, MemberId, PolicyVersion, is_file_name};

use super::rollout::{purpose_from_wire, purpose_to_wire};
use super::{ConvertError, required, unknown};
use crate::version::{same_version, version};
use crate::wire::{coordinator as wire, learner};
use crate::work::{
    Completion, Departure, Directive, Formation, LeaseAsk, Rank, Receipt, ReceiptCode,
    Registration, ReturnReason, ReturnedGroup, Role, StepRecord, WorkItem,
};

/// It names a directory under `checkpoints/`, where there is one.
fn checkpoint_name(name: String) -> Result<Option<String>, ConvertError> {
    match name.is_empty() || is_file_name(&name) {
        true => Ok(Some(name).filter(|name| !name.is_empty())),
        false => Err(ConvertError::Name { field: "checkpoint" }),
    }
}

pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl From<Registration> for wire::RegisterRequest {
    fn from(r: Registration) -> Self {
        let role = match r.role {
            Role::Actor => wire::Role::Actor,
            Role::WeakServer => wire::Role::WeakServer,
            Role::Learner => wire::Role::Learner,
        };
        Self {
            role: role.into(),
            index: r.index,
            address: r.address,
            admin_address: r.admin_address,
            ring_address: r.ring_address,
            version: version(),
            member: r.member.0,
            generation: r.generation.0,
        }
    }
}

impl TryFrom<wire::RegisterRequest> for Registration {
    type Error = ConvertError;

    fn try_from(r: wire::RegisterRequest) -> Result<Self, ConvertError> {
        // First: what another version says may mean something else.
        same_version("member", &r.version)?;
        let role = match wire::Role::try_from(r.role) {
            Ok(wire::Role::Actor) => Role::Actor,
            Ok(wire::Role::WeakServer) => Role::WeakServer,
            Ok(wire::Role::Learner) => Role::Learner,
            _ => return Err(unknown("role", r.role)),
        };
        Ok(Self {
            member: MemberId(r.member),
            role,
            index: r.index,
            address: r.address,
            admin_address: r.admin_address,
            ring_address: r.ring_address,
            generation: Generation(r.generation),
        })
    }
}

impl From<Departure> for wire::Departure {
    fn from(how: Departure) -> Self {
        match how {
            Departure::Ordered => Self::Ordered,
            Departure::Failed => Self::Failed,
            Departure::NotFinite => Self::NotFinite,
        }
    }
}

impl Departure {
    /// # Errors
    /// A number that stands for none.
    pub fn from_wire(how: i32) -> Result<Self, ConvertError> {
        match wire::Departure::try_from(how) {
            Ok(wire::Departure::Ordered) => Ok(Self::Ordered),
            Ok(wire::Departure::Failed) => Ok(Self::Failed),
            Ok(wire::Departure::NotFinite) => Ok(Self::NotFinite),
            _ => Err(unknown("how", how)),
        }
    }
}

impl From<Directive> for wire::Directive {
    fn from(d: Directive) -> Self {
        Self {
            version: d.version.map(PolicyVersion::packed),
            formation: d.formation.map(Into::into),
            weak_servers: d.weak_servers,
            stop: d.stop,
        }
    }
}

impl From<Formation> for wire::Formation {
    fn from(f: Formation) -> Self {
        let rank = |r: Rank| wire::Rank { address: r.address, ring_address: r.ring_address };
        Self {
            generation: f.generation.0,
            committed: f.committed,
            run: f.run,
            ranks: f.ranks.into_iter().map(rank).collect(),
        }
    }
}

impl From<wire::Formation> for Formation {
    fn from(f: wire::Formation) -> Self {
        let rank = |r: wire::Rank| Rank { address: r.address, ring_address: r.ring_address };
        Self {
            generation: Generation(f.generation),
            committed: f.committed,
            run: f.run,
            ranks: f.ranks.into_iter().map(rank).collect(),
        }
    }
}

impl From<wire::Directive> for Directive {
    fn from(d: wire::Directive) -> Self {
        Self {
            version: d.version.map(PolicyVersion::unpack),
            formation: d.formation.map(Into::into),
            weak_servers: d.weak_servers,
            stop: d.stop,
        }
    }
}

impl From<LeaseAsk> for wire::LeaseRequest {
    fn from(a: LeaseAsk) -> Self {
        Self {
            member: a.member.0,
            max_rollouts: a.max_rollouts,
            applied_version: a.applied_version.map(PolicyVersion::packed),
            completed: a.completed.into_iter().map(completion).collect(),
        }
    }
}

impl From<wire::LeaseRequest> for LeaseAsk {
    fn from(a: wire::LeaseRequest) -> Self {
        Self {
            member: MemberId(a.member),
            max_rollouts: a.max_rollouts,
            applied_version: a.applied_version.map(PolicyVersion::unpack),
            completed: a.completed.into_iter().map(of_completion).collect(),
        }
    }
}

fn completion(c: Completion) -> wire::Completion {
    wire::Completion { lease: c.lease.0, generation: c.generation.0 }
}

fn of_completion(c: wire::Completion) -> Completion {
    Completion { lease: LeaseId(c.lease), generation: Generation(c.generation) }
}

impl From<WorkItem> for wire::WorkItem {
    fn from(w: WorkItem) -> Self {
        Self {
            lease: w.lease.0,
            group: w.group.0,
            epoch: w.epoch.0,
            deadline_ms: millis(w.deadline),
            purpose: purpose_to_wire(w.purpose).into(),
            schedule: w.schedule,
            samples: w.samples,
            key_group: w.key_group.0,
            problem: Some(w.problem.into()),
            sampling: Some(w.sampling.into()),
        }
    }
}

impl TryFrom<wire::WorkItem> for WorkItem {
    type Error = ConvertError;

    fn try_from(w: wire::WorkItem) -> Result<Self, ConvertError> {
        Ok(Self {
            lease: LeaseId(w.lease),
            group: GroupId(w.group),
            epoch: Epoch(w.epoch),
            deadline: Duration::from_millis(u64::from(w.deadline_ms)),
            purpose: purpose_from_wire(w.purpose)?,
            schedule: w.schedule,
            samples: w.samples,
            key_group: GroupId(w.key_group),
            problem: required(w.problem, "problem")?.into(),
            sampling: required(w.sampling, "sampling")?.try_into()?,
        })
    }
}

impl From<ReturnedGroup> for wire::ReturnRequest {
    fn from(r: ReturnedGroup) -> Self {
        let reason = match r.reason {
            ReturnReason::Failed => wire::ReturnReason::Failed,
            ReturnReason::Impossible => wire::ReturnReason::Impossible,
            ReturnReason::Stale => wire::ReturnReason::Stale,
            ReturnReason::Refused => wire::ReturnReason::Refused,
            ReturnReason::Replaced => wire::ReturnReason::Replaced,
        };
        Self {
            member: r.member.0,
            group: r.group.0,
            epoch: r.epoch.0,
            purpose: purpose_to_wire(r.purpose).into(),
            reason: reason.into(),
            detail: r.detail,
        }
    }
}

impl TryFrom<wire::ReturnRequest> for ReturnedGroup {
    type Error = ConvertError;

    fn try_from(r: wire::ReturnRequest) -> Result<Self, ConvertError> {
        let reason = match wire::ReturnReason::try_from(r.reason) {
            Ok(wire::ReturnReason::Failed) => ReturnReason::Failed,
            Ok(wire::ReturnReason::Impossible) => ReturnReason::Impossible,
            Ok(wire::ReturnReason::Stale) => ReturnReason::Stale,
            Ok(wire::ReturnReason::Refused) => ReturnReason::Refused,
            Ok(wire::ReturnReason::Replaced) => ReturnReason::Replaced,
            _ => return Err(unknown("reason", r.reason)),
        };
        Ok(Self {
            member: MemberId(r.member),
            group: GroupId(r.group),
            epoch: Epoch(r.epoch),
            purpose: purpose_from_wire(r.purpose)?,
            reason,
            detail: r.detail,
        })
    }
}

impl From<StepRecord> for wire::StepRecord {
    fn from(r: StepRecord) -> Self {
        Self {
            member: r.member.0,
            step: r.step,
            version: r.version.packed(),
            groups: r.groups.into_iter().map(|g| g.0).collect(),
            groups_trained: r.groups_trained,
            groups_zero_variance: r.groups_zero_variance,
            groups_stale: r.groups_stale,
            duplicates_refused: r.duplicates_refused,
            strong_tokens: r.strong_tokens,
            weak_tokens: r.weak_tokens,
            values: r.values.into_iter().collect(),
            checkpoint: r.checkpoint.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::StepRecord> for StepRecord {
    type Error = ConvertError;

    fn try_from(r: wire::StepRecord) -> Result<Self, ConvertError> {
        if r.values.values().any(|v| !v.is_finite()) {
            return Err(ConvertError::NotFinite { field: "values" });
        }
        Ok(Self {
            member: MemberId(r.member),
            step: r.step,
            version: PolicyVersion::unpack(r.version),
            groups: r.groups.into_iter().map(GroupId).collect(),
            groups_trained: r.groups_trained,
            groups_zero_variance: r.groups_zero_variance,
            groups_stale: r.groups_stale,
            duplicates_refused: r.duplicates_refused,
            strong_tokens: r.strong_tokens,
            weak_tokens: r.weak_tokens,
            values: r.values.into_iter().collect(),
            checkpoint: checkpoint_name(r.checkpoint)?,
        })
    }
}

impl From<Receipt> for learner::Receipt {
    fn from(r: Receipt) -> Self {
        let code = match r.code {
            ReceiptCode::Accepted => learner::ReceiptCode::Accepted,
            ReceiptCode::Duplicate => learner::ReceiptCode::Duplicate,
            ReceiptCode::Refused => learner::ReceiptCode::Refused,
            ReceiptCode::Replaced => learner::ReceiptCode::Replaced,
        };
        Self {
            group: r.group.0,
            epoch: r.epoch.0,
            code: code.into(),
            reason: r.reason,
            generation: r.generation.0,
        }
    }
}

impl TryFrom<learner::Receipt> for Receipt {
    type Error = ConvertError;

    fn try_from(r: learner::Receipt) -> Result<Self, ConvertError> {
        let code = match learner::ReceiptCode::try_from(r.code) {
            Ok(learner::ReceiptCode::Accepted) => ReceiptCode::Accepted,
            Ok(learner::ReceiptCode::Duplicate) => ReceiptCode::Duplicate,
            Ok(learner::ReceiptCode::Refused) => ReceiptCode::Refused,
            Ok(learner::ReceiptCode::Replaced) => ReceiptCode::Replaced,
            _ => return Err(unknown("code", r.code)),
        };
        Ok(Self {
            group: GroupId(r.group),
            epoch: Epoch(r.epoch),
            code,
            reason: r.reason,
            generation: Generation(r.generation),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint(name: &str) -> Result<Option<String>, ConvertError> {
        let record = wire::StepRecord { checkpoint: name.to_owned(), ..Default::default() };
        StepRecord::try_from(record).map(|record| record.checkpoint)
    }

    #[test]
    fn row_21_a_checkpoint_has_a_plain_name_or_none() {
        assert_eq!(checkpoint(""), Ok(None));
        assert_eq!(checkpoint("step-000020"), Ok(Some("step-000020".to_owned())));
        for name in ["..", "/etc", "../step-000020", "a/b", "step\n"] {
            let refused = Err(ConvertError::Name { field: "checkpoint" });
            assert_eq!(checkpoint(name), refused, "{name}");
        }
    }

    proptest! {
        #[test]
        fn row_21_no_checkpoint_is_outside_its_directory(name in "[./a-c\\\\]{1,8}") {
            if let Ok(Some(name)) = checkpoint(&name) {
                let path = std::path::Path::new("/run/checkpoints").join(&name);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/run/checkpoints")));
                prop_assert!(name != ".." && name != ".");
            }
        }
    }

    #[test]
    fn row_26_another_version_is_refused_with_both_named() {
        let of = |version: &str| {
            let request = wire::RegisterRequest {
                role: wire::Role::Actor.into(),
                version: version.to_owned(),
                ..Default::default()
            };
            Registration::try_from(request).map(|registration| registration.role)
        };
        assert_eq!(of(&version()), Ok(Role::Actor));
        let skewed = of("9.9.9, wire revision 77").unwrap_err().to_string();
        assert!(skewed.contains("9.9.9, wire revision 77"), "{skewed}");
        assert!(skewed.contains(&version()), "{skewed}");
    }
}
