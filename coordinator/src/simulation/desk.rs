//! A model of a rank's inbox: the first copy of each open group is taken, and what proves stale or
//! teaches nothing is given back.

use std::collections::{BTreeMap, VecDeque};

use proto::ReturnReason;
use types::{Epoch, Generation, GroupId, PolicyVersion};

use super::world::{GROUPS, STALENESS, World, groups_of};

/// A group as an actor delivers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) group: GroupId,
    pub(super) epoch: Epoch,
    /// Of the weights that wrote it.
    pub(super) version: PolicyVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    Duplicate,
    Refused,
    Replaced,
}

impl Answer {
    const ALL: [Self; 4] = [Self::Accepted, Self::Duplicate, Self::Refused, Self::Replaced];

    pub(super) fn number(self) -> u64 {
        Self::ALL.iter().position(|answer| *answer == self).unwrap() as u64
    }

    pub(super) fn numbered(number: u64) -> Self {
        Self::ALL[number as usize]
    }
}

/// What goes back to the coordinator.
pub(super) type GivenBack = (GroupId, Epoch, ReturnReason);

#[derive(Default)]
pub(super) struct Desk {
    generation: Generation,
    open: Option<Open>,
    pub(super) returns: VecDeque<GivenBack>,
}

struct Open {
    published: PolicyVersion,
    resumed: u32,
    step: u32,
    rank: u64,
    world: u64,
    held: BTreeMap<u64, Copy>,
    /// The highest epoch that came of each open group.
    seen: BTreeMap<u64, Epoch>,
}

impl Desk {
    pub(super) fn begin(&mut self, version: PolicyVersion, rank: usize, world: usize) {
        self.generation = version.generation;
        self.open = Some(Open {
            published: version,
            resumed: version.step,
            step: version.step,
            rank: rank as u64,
            world: world as u64,
            held: BTreeMap::new(),
            seen: BTreeMap::new(),
        });
    }

    pub(super) fn suspend(&mut self) {
        self.open = None;
    }

    pub(super) fn announce(&mut self, version: PolicyVersion) {
        if let Some(open) = &mut self.open {
            open.published = version;
        }
    }

    pub(super) fn receive(&mut self, copy: Copy, world: &World) -> (Answer, Generation) {
        let replaces = world.once_in(12);
        let answer = match &mut self.open {
            Some(open) => open.judge(copy, replaces),
            None => Answer::Refused,
        };
        let reason = match answer {
            Answer::Refused => Some(ReturnReason::Refused),
            Answer::Replaced => Some(ReturnReason::Replaced),
            Answer::Accepted | Answer::Duplicate => None,
        };
        self.returns.extend(reason.map(|reason| (copy.group, copy.epoch, reason)));
        (answer, self.generation)
    }

    /// The copies of the present step, once they are there and fresh; it is consumed then.
    pub(super) fn form(&mut self) -> Option<BTreeMap<u64, Epoch>> {
        let open = self.open.as_mut()?;
        let (rank, world) = (open.rank, open.world);
        let own = groups_of(open.step).filter(|group| group % world == rank);
        let ids: Vec<u64> = own.collect();
        if !ids.iter().all(|group| open.held.contains_key(group)) {
            return None;
        }
        let step = open.step;
        let is_stale = |copy: &Copy| copy.version.step + STALENESS < step;
        let stale: Vec<u64> =
            ids.iter().copied().filter(|group| is_stale(&open.held[group])).collect();
        if !stale.is_empty() {
            for group in stale {
                open.held.remove(&group);
                let epoch = open.seen[&group];
                self.returns.push_back((GroupId(group), epoch, ReturnReason::Stale));
            }
            return None;
        }
        let formed = ids.iter().map(|group| (*group, open.held.remove(group).unwrap().epoch));
        let formed = formed.collect();
        open.step += 1;
        Some(formed)
    }
}

impl Open {
    fn judge(&mut self, copy: Copy, replaces: bool) -> Answer {
        let (group, epoch) = (copy.group.0, copy.epoch);
        let first = u64::from(self.step) * GROUPS;
        if group % self.world != self.rank
            || group >= first + GROUPS * (u64::from(STALENESS) + 1)
            || !self.is_live(copy.version)
        {
            return Answer::Refused;
        }
        let held = self.held.contains_key(&group);
        let known = self.seen.get(&group).is_some_and(|seen| epoch <= *seen);
        if group < first || held || known {
            if held {
                self.see(group, epoch);
            }
            return Answer::Duplicate;
        }
        self.see(group, epoch);
        if replaces {
            return Answer::Replaced;
        }
        self.held.insert(group, copy);
        Answer::Accepted
    }

    fn see(&mut self, group: u64, epoch: Epoch) {
        let seen = self.seen.entry(group).or_insert(epoch);
        *seen = epoch.max(*seen);
    }

    fn is_live(&self, version: PolicyVersion) -> bool {
        let older = version.generation < self.published.generation;
        version.generation == self.published.generation || (older && version.step <= self.resumed)
    }
}
