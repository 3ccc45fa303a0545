//! Which groups wait, which are out under a lease and until when, and which were delivered.
//! What a group is, and who may have one, is decided in `state`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use types::{Epoch, GroupId, LeaseId, MemberId};

/// One grant of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub lease: LeaseId,
    pub member: MemberId,
    /// When the group is dealt again, on the clock of the run.
    pub deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Waiting,
    Out(Grant),
    Delivered,
}

impl Hold {
    fn member(self) -> Option<MemberId> {
        match self {
            Self::Out(grant) => Some(grant.member),
            Self::Waiting | Self::Delivered => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Raised whenever the group is dealt again; a lower one is fenced off.
    epoch: Epoch,
    /// How often somebody failed to deliver it.
    failures: u32,
    hold: Hold,
}

/// The groups of one purpose that are neither consumed nor still to come.
#[derive(Clone, Debug, Default)]
pub struct GroupTable {
    entries: BTreeMap<GroupId, Entry>,
    waiting: BTreeSet<GroupId>,
    leases: BTreeMap<LeaseId, GroupId>,
    /// How many groups each member has out; none is not listed.
    out_with: BTreeMap<MemberId, usize>,
    /// Of new groups.
    first: Epoch,
    /// The highest epoch of a group that was closed.
    closed: Option<Epoch>,
}

impl GroupTable {
    /// A new group, waiting under the first epoch.
    pub fn open(&mut self, group: GroupId) {
        self.open_under(group, self.first);
    }

    /// New groups get this epoch, for all lower ones may be out from before.
    pub fn deal_from(&mut self, first: Epoch) {
        self.first = first;
    }

    fn open_under(&mut self, group: GroupId, epoch: Epoch) {
        let fresh = Entry { epoch, failures: 0, hold: Hold::Waiting };
        if self.entries.insert(group, fresh).is_none() {
            self.waiting.insert(group);
        }
    }

    /// Whoever has taken the delivered groups may have lost them: all are dealt again.
    pub fn reopen_delivered(&mut self) {
        let delivered =
            |(group, entry): (&GroupId, &Entry)| (entry.hold == Hold::Delivered).then_some(*group);
        let groups: Vec<GroupId> = self.entries.iter().filter_map(delivered).collect();
        for group in groups {
            self.deal_again(group);
            self.set_failures(group, 0);
        }
    }

    /// Groups of a range are to be dealt anew whatever became of them, the closed ones as well.
    pub fn rewind(&mut self, groups: Range<GroupId>) {
        let above = self.closed.map_or(self.first, |closed| Epoch(closed.0 + 1)).max(self.first);
        for group in (groups.start.0..groups.end.0).map(GroupId) {
            if self.entries.contains_key(&group) {
                self.deal_again(group);
                self.set_failures(group, 0);
            } else {
                self.open_under(group, above);
            }
        }
    }

    /// The lowest group that waits; later ones never overtake it.
    #[must_use]
    pub fn first_waiting(&self) -> Option<GroupId> {
        self.waiting.first().copied()
    }

    /// Leases a waiting group out; the epoch goes with it. `None` if it does not wait.
    pub fn grant(&mut self, group: GroupId, grant: Grant) -> Option<Epoch> {
        if !self.waiting.remove(&group) {
            return None;
        }
        let entry = self.entries.get_mut(&group)?;
        entry.hold = Hold::Out(grant);
        self.leases.insert(grant.lease, group);
        *self.out_with.entry(grant.member).or_default() += 1;
        Some(entry.epoch)
    }

    /// The group of this lease was delivered. `None` for a lease that has run out: its epoch is
    /// fenced off, and the group may be out again.
    pub fn complete(&mut self, lease: LeaseId) -> Option<GroupId> {
        let group = self.leases.get(&lease).copied()?;
        let hold = &mut self.entries.get_mut(&group)?.hold;
        let before = std::mem::replace(hold, Hold::Delivered);
        self.is_in(before);
        Some(group)
    }

    /// The group of this lease is dealt again, which is nobody's failure.
    pub fn give_up(&mut self, lease: LeaseId) {
        if let Some(group) = self.leases.get(&lease).copied() {
            let failures = self.failures(group);
            self.deal_again(group);
            self.set_failures(group, failures);
        }
    }

    /// Its writer gives a group up: it is dealt again under the next epoch, which is returned.
    /// `None` where the epoch is not the current one or the group waits already.
    pub fn give_back(&mut self, group: GroupId, epoch: Epoch) -> Option<Epoch> {
        let entry = self.entries.get(&group)?;
        (entry.epoch == epoch && entry.hold != Hold::Waiting).then(|| self.deal_again(group))
    }

    /// The learner, which takes one copy of a group and drops the others, holds none any more. It
    /// may have held an older one than is current here and dropped the current one, so its word
    /// counts under every epoch up to the current. At worst a copy is written for nothing.
    pub fn reopen(&mut self, group: GroupId, epoch: Epoch) -> Option<Epoch> {
        let entry = self.entries.get(&group)?;
        (epoch <= entry.epoch && entry.hold != Hold::Waiting).then(|| self.deal_again(group))
    }

    /// Deals again what is out past its deadline.
    pub fn expire(&mut self, now: Duration) -> Vec<(GroupId, Epoch)> {
        self.deal_again_where(|grant| grant.deadline <= now)
    }

    /// Deals again what a member that left had out.
    pub fn release(&mut self, member: MemberId) -> Vec<(GroupId, Epoch)> {
        self.deal_again_where(|grant| grant.member == member)
    }

    /// Forgets a consumed group, whoever may still work on a copy. False if it was not here.
    pub fn close(&mut self, group: GroupId) -> bool {
        self.waiting.remove(&group);
        let Some(entry) = self.entries.remove(&group) else { return false };
        self.closed = self.closed.max(Some(entry.epoch));
        self.is_in(entry.hold);
        true
    }

    #[must_use]
    pub fn epoch(&self, group: GroupId) -> Option<Epoch> {
        self.entries.get(&group).map(|entry| entry.epoch)
    }

    /// How often somebody has failed to deliver a group.
    #[must_use]
    pub fn failures(&self, group: GroupId) -> u32 {
        self.entries.get(&group).map_or(0, |entry| entry.failures)
    }

    /// How many groups of a range a member has out.
    #[must_use]
    pub fn held(&self, member: MemberId, groups: Range<GroupId>) -> usize {
        if self.of(member) == 0 {
            return 0;
        }
        let entries = self.entries.range(groups);
        entries.filter(|(_, entry)| entry.hold.member() == Some(member)).count()
    }

    /// How many groups are out.
    #[must_use]
    pub fn out(&self) -> usize {
        self.leases.len()
    }

    /// How many groups a member has out.
    #[must_use]
    pub fn of(&self, member: MemberId) -> usize {
        self.out_with.get(&member).copied().unwrap_or_default()
    }

    /// Groups of a range that are waited for, with the member that has them out.
    #[must_use]
    pub fn undelivered(&self, groups: Range<GroupId>) -> Vec<(GroupId, Option<MemberId>)> {
        let entries = self.entries.range(groups).filter(|(_, e)| e.hold != Hold::Delivered);
        entries.map(|(group, entry)| (*group, entry.hold.member())).collect()
    }

    fn deal_again_where(&mut self, over: impl Fn(&Grant) -> bool) -> Vec<(GroupId, Epoch)> {
        let is_over = |(group, entry): (&GroupId, &Entry)| match entry.hold {
            Hold::Out(grant) if over(&grant) => Some(*group),
            _ => None,
        };
        let groups: Vec<GroupId> = self.entries.iter().filter_map(is_over).collect();
        groups.into_iter().map(|group| (group, self.deal_again(group))).collect()
    }

    fn deal_again(&mut self, group: GroupId) -> Epoch {
        let entry = self.entries.get_mut(&group).expect("the caller found the group here");
        entry.epoch = Epoch(entry.epoch.0 + 1);
        entry.failures += 1;
        let (epoch, before) = (entry.epoch, std::mem::replace(&mut entry.hold, Hold::Waiting));
        self.waiting.insert(group);
        self.is_in(before);
        epoch
    }

    /// What was held so is not any more.
    fn is_in(&mut self, hold: Hold) {
        let Hold::Out(grant) = hold else { return };
        self.leases.remove(&grant.lease);
        if let Some(count) = self.out_with.get_mut(&grant.member) {
            *count -= 1;
            if *count == 0 {
                self.out_with.remove(&grant.member);
            }
        }
    }

    fn set_failures(&mut self, group: GroupId, failures: u32) {
        if let Some(entry) = self.entries.get_mut(&group) {
            entry.failures = failures;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(lease: u64, member: u64, deadline: u64) -> Grant {
        Grant {
            lease: LeaseId(lease),
            member: MemberId(member),
            deadline: Duration::from_secs(deadline),
        }
    }

    fn table() -> GroupTable {
        let mut table = GroupTable::default();
        (0..3).for_each(|group| table.open(GroupId(group)));
        table
    }

    #[test]
    fn row_7_an_expired_lease_is_dealt_again_under_the_next_epoch_and_fenced() {
        let mut table = table();
        assert_eq!(table.grant(GroupId(0), grant(1, 1, 10)), Some(Epoch(0)));
        assert_eq!(table.grant(GroupId(0), grant(2, 1, 10)), None);
        assert_eq!(table.expire(Duration::from_secs(9)), []);
        assert_eq!(table.expire(Duration::from_secs(10)), [(GroupId(0), Epoch(1))]);
        assert_eq!(table.first_waiting(), Some(GroupId(0)));
        assert_eq!(table.grant(GroupId(0), grant(2, 2, 20)), Some(Epoch(1)));
        assert_eq!(table.complete(LeaseId(1)), None, "the first lease has run out");
        assert_eq!(table.complete(LeaseId(2)), Some(GroupId(0)));
        assert_eq!(table.expire(Duration::from_secs(99)), [], "delivered groups do not expire");
    }

    #[test]
    fn a_return_counts_once_and_only_under_the_current_epoch() {
        let mut table = table();
        table.grant(GroupId(0), grant(1, 1, 10));
        table.complete(LeaseId(1));
        assert_eq!(table.give_back(GroupId(0), Epoch(0)), Some(Epoch(1)));
        assert_eq!(table.give_back(GroupId(0), Epoch(0)), None);
        assert_eq!(table.give_back(GroupId(0), Epoch(1)), None, "it waits already");
        assert_eq!(table.give_back(GroupId(9), Epoch(0)), None);
    }

    #[test]
    fn the_learner_reopens_a_group_under_every_epoch_it_may_have_held() {
        let mut table = table();
        table.grant(GroupId(0), grant(1, 1, 10));
        table.expire(Duration::from_secs(10));
        table.grant(GroupId(0), grant(2, 2, 20));
        assert_eq!(table.give_back(GroupId(0), Epoch(0)), None, "a writer that came too late");
        table.complete(LeaseId(2));
        assert_eq!(table.reopen(GroupId(0), Epoch(2)), None, "an epoch still to come");
        assert_eq!(table.reopen(GroupId(0), Epoch(0)), Some(Epoch(2)));
        assert_eq!(table.reopen(GroupId(0), Epoch(0)), None, "it waits already");
        table.grant(GroupId(0), grant(3, 1, 30));
        assert_eq!(table.reopen(GroupId(0), Epoch(1)), Some(Epoch(3)), "its copy may be dropped");
        assert_eq!(table.complete(LeaseId(3)), None);
        assert_eq!(
            table.undelivered(GroupId(0)..GroupId(2)),
            [(GroupId(0), None), (GroupId(1), None)]
        );
    }

    #[test]
    fn a_member_that_leaves_gives_back_what_it_had_out() {
        let mut table = table();
        table.grant(GroupId(0), grant(1, 1, 10));
        table.grant(GroupId(1), grant(2, 2, 10));
        table.grant(GroupId(2), grant(3, 1, 10));
        table.complete(LeaseId(3));
        let held = |table: &GroupTable| [1, 2].map(|member| table.of(MemberId(member)));
        assert_eq!(held(&table), [1, 1]);
        assert_eq!(table.release(MemberId(1)), [(GroupId(0), Epoch(1))]);
        assert_eq!(held(&table), [0, 1]);
        assert_eq!(table.out(), 1);
        assert!(table.close(GroupId(1)) && !table.close(GroupId(1)));
        assert_eq!(table.complete(LeaseId(2)), None);
        assert_eq!((table.out(), held(&table)), (0, [0, 0]));
    }
}
