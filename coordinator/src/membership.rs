//! Who takes part: members, their addresses, and whether everyone expected has come.
//! Processes are started and watched in `children`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{Pulse, Registration, Role};
use types::MemberId;

/// How many processes of each role the run waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    pub actors: u32,
    pub weak_servers: u32,
    pub learners: u32,
}

impl MemberCounts {
    #[must_use]
    pub fn of(&self, role: Role) -> u32 {
        match role {
            Role::Actor => self.actors,
            Role::WeakServer => self.weak_servers,
            Role::Learner => self.learners,
        }
    }
}

pub const ROLES: [Role; 3] = [Role::Actor, Role::WeakServer, Role::Learner];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    #[error("member {0} is not registered (any more): register again")]
    Unknown(MemberId),
    #[error(
        "{0} is here already: give every process of a role its own --index, and start none twice"
    )]
    Taken(String),
    #[error("member {member} has the role {found}, but this is for the role {needed}")]
    Role { member: MemberId, found: &'static str, needed: &'static str },
}

/// An open watch of a member. Once the member is gone it is nobody's, though one of the same number
/// may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    pub member: MemberId,
    admission: u64,
}

#[derive(Clone, Debug)]
struct Member {
    registration: Registration,
    /// Tells its stay from earlier and later ones of the same process.
    admission: u64,
    /// Open watch streams; a broken one is reopened before it is missed.
    watches: u32,
    /// Since when there is none; a member that never watched is not missed.
    absent_since: Option<Duration>,
    /// When it last asked for work, or when another first did.
    asked: Option<Duration>,
    /// Its last sign of life, and when it came; one that never gave any is not missed.
    pulse: Option<(Duration, Pulse)>,
}

impl Member {
    fn new(registration: Registration, admission: u64) -> Self {
        Self { registration, admission, watches: 0, absent_since: None, asked: None, pulse: None }
    }
}

/// The processes that have registered and not left.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    /// Whoever has registered at some time.
    known: BTreeSet<(Role, u32)>,
    /// Counts comings and goings.
    changes: u64,
}

impl Membership {
    /// Takes a member in, or finds it here already, and returns its index. Another process of the
    /// same role and index that watches no more is replaced, and returned too; whoever names no
    /// index replaces nobody.
    ///
    /// # Errors
    /// The other one is present: there would be two.
    pub fn register(
        &mut self,
        mut registration: Registration,
    ) -> Result<(u32, Option<MemberId>), MemberError> {
        let (member, role) = (registration.member, registration.role);
        let known = self.members.get(&member).and_then(|known| known.registration.index);
        let index = registration.index.or(known).unwrap_or_else(|| self.free_index(role));
        registration.index = Some(index);
        let place = (role, index);
        if let Some(known) = self.members.get_mut(&member) {
            let same = (known.registration.role, known.registration.index) == (role, Some(index));
            let taken = MemberError::Taken(registration.name());
            known.registration = if same { registration } else { return Err(taken) };
            return Ok((index, None));
        }
        let replaced = self.find(role, index);
        if let Some(old) = replaced {
            if self.members.get(&old).is_some_and(|known| known.watches > 0) {
                return Err(MemberError::Taken(registration.name()));
            }
            self.members.remove(&old);
        }
        self.known.insert(place);
        self.changes += 1;
        self.members.insert(member, Member::new(registration, self.changes));
        Ok((index, replaced))
    }

    /// The lowest that no member of this role has.
    fn free_index(&self, role: Role) -> u32 {
        let taken: BTreeSet<u32> = self.of_role(role).into_iter().filter_map(|m| m.index).collect();
        (0..=u32::MAX).find(|index| !taken.contains(index)).unwrap_or(u32::MAX)
    }

    /// Whether a process of this role and index has registered at some time.
    #[must_use]
    pub fn has_been(&self, role: Role, index: u32) -> bool {
        self.known.contains(&(role, index))
    }

    #[must_use]
    pub fn find(&self, role: Role, index: u32) -> Option<MemberId> {
        let is_it = |known: &Registration| known.role == role && known.index == Some(index);
        self.members.iter().find(|(_, known)| is_it(&known.registration)).map(|(id, _)| *id)
    }

    /// The learner's, in their order.
    #[must_use]
    pub fn ranks(&self) -> Vec<(MemberId, Registration)> {
        let learners =
            self.members.iter().filter(|(_, known)| known.registration.role == Role::Learner);
        let mut ranks: Vec<_> =
            learners.map(|(id, known)| (*id, known.registration.clone())).collect();
        ranks.sort_by_key(|(_, known)| known.index);
        ranks
    }

    /// A watch stream of this member opened; `None` if it is not registered.
    pub fn watched(&mut self, member: MemberId) -> Option<Watch> {
        let known = self.members.get_mut(&member)?;
        known.watches += 1;
        known.absent_since = None;
        Some(Watch { member, admission: known.admission })
    }

    /// Whether the member that opened it has not left since.
    #[must_use]
    pub fn is_watched_by(&self, watch: Watch) -> bool {
        self.members.get(&watch.member).is_some_and(|known| known.admission == watch.admission)
    }

    /// Whether anybody would hear of a directive.
    #[must_use]
    pub fn any_watches(&self) -> bool {
        self.members.values().any(|known| known.watches > 0)
    }

    /// A watch stream ended.
    pub fn unwatched(&mut self, watch: Watch, now: Duration) {
        let known = self.members.get_mut(&watch.member);
        if let Some(known) = known.filter(|known| known.admission == watch.admission) {
            known.watches = known.watches.saturating_sub(1);
            known.absent_since = (known.watches == 0).then_some(now);
        }
    }

    /// A sign of life; false if it is not registered.
    pub fn heard(&mut self, pulse: Pulse, now: Duration) -> bool {
        let Some(known) = self.members.get_mut(&pulse.member) else { return false };
        known.pulse = Some((now, pulse));
        true
    }

    /// Members that have not watched for `limit`, and those that watch and have given no sign of
    /// life for `silence`: stopped, or cut off without a word.
    #[must_use]
    pub fn absent(&self, now: Duration, limit: Duration, silence: Duration) -> Vec<MemberId> {
        let gone = |known: &Member| {
            let left = known.absent_since.is_some_and(|since| now >= since + limit);
            left || known.pulse.as_ref().is_some_and(|(heard, _)| now >= *heard + silence)
        };
        self.members.iter().filter(|(_, known)| gone(known)).map(|(id, _)| *id).collect()
    }

    /// Grows whenever somebody comes or goes.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// In the order of roles and indices.
    #[must_use]
    pub fn all(&self) -> Vec<&Registration> {
        let mut all: Vec<_> = self.members.values().map(|known| &known.registration).collect();
        all.sort_by_key(|known| (known.role, known.index));
        all
    }

    /// A member's last sign of life, and when it came.
    #[must_use]
    pub fn pulse(&self, member: MemberId) -> Option<(Duration, &Pulse)> {
        let (heard, pulse) = self.members.get(&member)?.pulse.as_ref()?;
        Some((*heard, pulse))
    }

    /// An actor asked for work; the others' patience runs from the first such moment.
    pub fn asked(&mut self, member: MemberId, now: Duration) {
        for (id, known) in &mut self.members {
            let asked = known.asked.get_or_insert(now);
            *asked = if *id == member { now } else { *asked };
        }
    }

    /// How many actors work is divided among: those that have asked for some within `limit`, and
    /// those at work, who do not ask while their slots are full.
    #[must_use]
    pub fn sharing(
        &self,
        now: Duration,
        limit: Duration,
        at_work: impl Fn(MemberId) -> bool,
    ) -> u64 {
        let is_actor = |known: &Member| known.registration.role == Role::Actor;
        let recent = |known: &Member| known.asked.is_some_and(|asked| now < asked + limit);
        let shares = |(id, known): &(&MemberId, &Member)| {
            is_actor(known) && (recent(known) || at_work(**id))
        };
        self.members.iter().filter(shares).count() as u64
    }

    /// `None` if it had left already.
    pub fn leave(&mut self, member: MemberId) -> Option<Registration> {
        let left = self.members.remove(&member);
        self.changes += u64::from(left.is_some());
        left.map(|known| known.registration)
    }

    /// For messages.
    #[must_use]
    pub fn name(&self, member: MemberId) -> String {
        let known = self.members.get(&member);
        known.map_or_else(|| format!("member {member}"), |known| known.registration.name())
    }

    /// # Errors
    /// An unknown member, or one of another role.
    pub fn expect(&self, member: MemberId, role: Role) -> Result<(), MemberError> {
        let known = self.members.get(&member).ok_or(MemberError::Unknown(member))?;
        let known = &known.registration;
        if known.role == role {
            return Ok(());
        }
        Err(MemberError::Role { member, found: known.role.name(), needed: role.name() })
    }

    /// # Errors
    /// An unknown member.
    pub fn role(&self, member: MemberId) -> Result<Role, MemberError> {
        let known = self.members.get(&member).ok_or(MemberError::Unknown(member))?;
        Ok(known.registration.role)
    }

    /// In the order of their indices.
    #[must_use]
    pub fn of_role(&self, role: Role) -> Vec<&Registration> {
        let all = self.members.values().map(|known| &known.registration);
        let mut found: Vec<_> = all.filter(|m| m.role == role).collect();
        found.sort_by_key(|m| m.index);
        found
    }

    /// The names of those that are expected and not here.
    #[must_use]
    pub fn missing(&self, expected: &MemberCounts) -> Vec<String> {
        let is_here = |role: Role, index: u32| {
            let mut all = self.members.values().map(|known| &known.registration);
            all.any(|known| known.role == role && known.index == Some(index))
        };
        let of_role = |role: Role| (0..expected.of(role)).map(move |index| (role, index));
        let expected = ROLES.into_iter().flat_map(of_role);
        let missing = expected.filter(|(role, index)| !is_here(*role, *index));
        missing.map(|(role, index)| role.name_of(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::registration;

    /// What became of another process, and the new one's id.
    fn register(
        members: &mut Membership,
        role: Role,
        index: u32,
        address: &str,
    ) -> Result<(MemberId, Option<MemberId>), MemberError> {
        let registration = registration(role, index, address);
        let member = registration.member;
        members.register(registration).map(|(_, replaced)| (member, replaced))
    }

    #[test]
    fn a_member_that_comes_back_replaces_itself() {
        let mut members = Membership::default();
        let (first, none) = register(&mut members, Role::WeakServer, 0, "a:1").unwrap();
        assert_eq!(none, None);
        let (second, old) = register(&mut members, Role::WeakServer, 0, "a:2").unwrap();
        assert_eq!(old, Some(first));
        assert_eq!(members.expect(first, Role::WeakServer), Err(MemberError::Unknown(first)));
        assert_eq!(members.expect(second, Role::WeakServer), Ok(()));
        let addresses: Vec<_> = members.of_role(Role::WeakServer);
        assert_eq!(addresses.iter().map(|m| &*m.address).collect::<Vec<_>>(), ["a:2"]);
    }

    #[test]
    fn whoever_names_no_index_gets_the_lowest_free_one_and_keeps_it() {
        let mut members = Membership::default();
        let (first, _) = register(&mut members, Role::Actor, 0, "").unwrap();
        register(&mut members, Role::Actor, 2, "").unwrap();
        register(&mut members, Role::WeakServer, 1, "").unwrap();
        let any = || Registration { index: None, ..registration(Role::Actor, 0, "") };
        let second = any();
        assert_eq!(members.register(second.clone()), Ok((1, None)));
        assert_eq!(members.register(any()), Ok((3, None)));
        assert_eq!(members.register(second.clone()), Ok((1, None)), "it is here already");
        assert_eq!(members.name(second.member), "actor-1");
        assert_eq!(members.find(Role::Actor, 0), Some(first), "it is not replaced");
        members.leave(first);
        assert_eq!(members.register(any()), Ok((0, None)));
    }

    #[test]
    fn roles_are_checked_and_the_missing_named() {
        let mut members = Membership::default();
        let (actor, _) = register(&mut members, Role::Actor, 1, "").unwrap();
        let error = members.expect(actor, Role::Learner).unwrap_err().to_string();
        let expected =
            format!("member {actor} has the role actor, but this is for the role learner");
        assert_eq!(error, expected);
        let expected = MemberCounts { actors: 2, weak_servers: 0, learners: 1 };
        let missing = members.missing(&expected);
        assert_eq!(missing, ["actor-0", "learner-0"]);
        assert_eq!(members.name(actor), "actor-1");
        assert_eq!(members.leave(actor).unwrap().name(), "actor-1");
        assert_eq!((members.leave(actor), members.name(actor)), (None, format!("member {actor}")));
    }

    #[test]
    fn a_watch_reopened_in_time_is_not_missed() {
        let mut members = Membership::default();
        let (actor, _) = register(&mut members, Role::Actor, 0, "").unwrap();
        let seconds = Duration::from_secs;
        let watches = [0; 2].map(|_| members.watched(actor).unwrap());
        members.unwatched(watches[0], seconds(1));
        let absent =
            |members: &Membership, now| members.absent(seconds(now), seconds(5), seconds(9));
        assert_eq!(absent(&members, 99), []);
        members.unwatched(watches[1], seconds(2));
        assert_eq!(absent(&members, 6), []);
        assert_eq!(absent(&members, 7), [actor]);
        assert!(members.watched(actor).is_some());
        assert_eq!(absent(&members, 99), []);
        assert_eq!(members.watched(MemberId(0)), None);
    }

    #[test]
    fn one_that_watches_and_gives_no_sign_of_life_is_missed() {
        let mut members = Membership::default();
        let (actor, _) = register(&mut members, Role::Actor, 0, "").unwrap();
        let seconds = Duration::from_secs;
        let absent =
            |members: &Membership, now| members.absent(seconds(now), seconds(5), seconds(9));
        let pulse = |member| Pulse { member, idle: Duration::ZERO, waits: Vec::new() };
        assert!(members.watched(actor).is_some() && members.heard(pulse(actor), seconds(3)));
        assert_eq!((absent(&members, 11), absent(&members, 12)), (vec![], vec![actor]));
        assert!(members.heard(pulse(actor), seconds(12)));
        assert_eq!(absent(&members, 20), []);
        assert!(!members.heard(pulse(MemberId(0)), seconds(12)));
    }

    #[test]
    fn the_end_of_an_earlier_stays_watch_is_not_that_of_the_present_one() {
        let mut members = Membership::default();
        let process = registration(Role::Actor, 0, "");
        members.register(process.clone()).unwrap();
        let old = members.watched(process.member).unwrap();
        // It was silent for too long, and is here again before its first connection is closed.
        members.leave(process.member);
        assert!(!members.is_watched_by(old));
        members.register(process.clone()).unwrap();
        let new = members.watched(process.member).unwrap();
        members.unwatched(old, Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!(members.absent(second, second, second), []);
        assert!(members.is_watched_by(new) && !members.is_watched_by(old));
        members.unwatched(new, Duration::ZERO);
        assert_eq!(members.absent(second, second, second), [process.member]);
    }

    #[test]
    fn registering_again_changes_nothing_and_another_place_is_refused() {
        let mut members = Membership::default();
        let first = registration(Role::Actor, 0, "");
        assert_eq!(members.register(first.clone()), Ok((0, None)));
        assert!(members.watched(first.member).is_some());
        // The answer was lost, and the same process asks once more.
        assert_eq!(members.register(first.clone()), Ok((0, None)));
        assert_eq!(members.find(Role::Actor, 0), Some(first.member));
        let elsewhere = Registration { index: Some(1), ..first };
        assert_eq!(members.register(elsewhere), Err(MemberError::Taken("actor-1".to_owned())));
    }

    #[test]
    fn row_11_a_second_process_of_the_same_name_is_refused_while_the_first_is_there() {
        let mut members = Membership::default();
        let (first, _) = register(&mut members, Role::Learner, 0, "a:1").unwrap();
        let watch = members.watched(first).unwrap();
        let refusal = register(&mut members, Role::Learner, 0, "a:2").unwrap_err();
        assert!(refusal.to_string().starts_with("learner-0 is here already"), "{refusal}");
        assert_eq!(members.find(Role::Learner, 0), Some(first));
        members.unwatched(watch, Duration::ZERO);
        let (second, old) = register(&mut members, Role::Learner, 0, "a:2").unwrap();
        assert_eq!((old, members.find(Role::Learner, 0)), (Some(first), Some(second)));
        assert!(members.has_been(Role::Learner, 0) && !members.has_been(Role::Learner, 1));
    }
}
