//! Newtyped identifiers and the policy version. Who hands them out is not decided here.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Run-wide sequence number of a group; never reused. Step s consists of groups s·B … (s+1)·B−1.
    GroupId(u64)
}
id! {
    /// One grant of a group to an actor.
    LeaseId(u64)
}
id! {
    /// How often a group has been dealt; a higher epoch fences the lower ones.
    Epoch(u32)
}
id! {
    /// A process that registered with the coordinator.
    MemberId(u64)
}
id! {
    /// Position of a rollout within its group.
    SampleIndex(u32)
}
id! {
    /// A KV session of the weak server, unique within one actor's stream.
    SessionId(u64)
}
id! {
    /// Raised by every learner restart.
    Generation(u32)
}

impl GroupId {
    /// Group i belongs to rank i mod `world`.
    #[must_use]
    pub fn rank(self, world: usize) -> usize {
        (self.0 % world.max(1) as u64) as usize
    }

    /// The number in whose name the group's replacement draws (`train.refill`). No group has it, so
    /// that a replacement shares no coin with what it replaces.
    #[must_use]
    pub fn replacement(self) -> Self {
        Self(self.0 | 1 << 63)
    }
}

/// Which weights: the learner's generation, then the number of steps taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyVersion {
    pub generation: Generation,
    pub step: u32,
}

impl PolicyVersion {
    #[must_use]
    pub fn new(generation: u32, step: u32) -> Self {
        Self { generation: Generation(generation), step }
    }

    /// One integer that orders like the version and fits a token column.
    #[must_use]
    pub fn packed(self) -> u64 {
        (u64::from(self.generation.0) << 32) | u64::from(self.step)
    }

    #[must_use]
    pub fn unpack(packed: u64) -> Self {
        Self::new((packed >> 32) as u32, packed as u32)
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}s{}", self.generation, self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_generation_then_step_and_survive_packing() {
        let old = PolicyVersion::new(1, 80);
        let new = PolicyVersion::new(2, 3);
        assert!(old < new && old.packed() < new.packed());
        assert_eq!(PolicyVersion::unpack(new.packed()), new);
        assert_eq!(new.to_string(), "g2s3");
    }
}
