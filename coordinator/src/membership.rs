//! Who takes part: members, their addresses, and whether everyone expected has come.
//! Processes are started and watched in `children`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{Registration, Role};
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

#[derive(Clone, Debug)]
struct Member {
    registration: Registration,
    /// Open watch streams; a broken one is reopened before it is missed.
    watches: u32,
    /// Since when there is none; a member that never watched is not missed.
    absent_since: Option<Duration>,
    /// When it last asked for work, or when another first did.
    asked: Option<Duration>,
}

/// The processes that have registered and not left.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    /// Whoever has registered at some time.
    known: BTreeSet<(Role, u32)>,
    next: u64,
}

impl Membership {
    /// Takes a member in; another of the same role and index that watches no more is replaced, and
    /// returned.
    ///
    /// # Errors
    /// The other one is present: there would be two.
    pub fn register(
        &mut self,
        registration: Registration,
    ) -> Result<(MemberId, Option<MemberId>), MemberError> {
        let replaced = self.find(registration.role, registration.index);
        if let Some(old) = replaced {
            if self.members.get(&old).is_some_and(|known| known.watches > 0) {
                return Err(MemberError::Taken(registration.name()));
            }
            self.members.remove(&old);
        }
        self.known.insert((registration.role, registration.index));
        self.next += 1;
        let member = MemberId(self.next);
        self.members
            .insert(member, Member { registration, watches: 0, absent_since: None, asked: None });
        Ok((member, replaced))
    }

    /// Whether a process of this role and index has registered at some time.
    #[must_use]
    pub fn has_been(&self, role: Role, index: u32) -> bool {
        self.known.contains(&(role, index))
    }

    #[must_use]
    pub fn find(&self, role: Role, index: u32) -> Option<MemberId> {
        let is_it = |known: &Registration| known.role == role && known.index == index;
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

    /// A watch stream of this member opened; false if it is not registered.
    pub fn watched(&mut self, member: MemberId) -> bool {
        let Some(known) = self.members.get_mut(&member) else { return false };
        known.watches += 1;
        known.absent_since = None;
        true
    }

    /// A watch stream of this member ended.
    pub fn unwatched(&mut self, member: MemberId, now: Duration) {
        if let Some(known) = self.members.get_mut(&member) {
            known.watches = known.watches.saturating_sub(1);
            known.absent_since = (known.watches == 0).then_some(now);
        }
    }

    /// Members that have not watched for longer than `limit`.
    #[must_use]
    pub fn absent(&self, now: Duration, limit: Duration) -> Vec<MemberId> {
        let gone = |known: &Member| known.absent_since.is_some_and(|since| now >= since + limit);
        self.members.iter().filter(|(_, known)| gone(known)).map(|(id, _)| *id).collect()
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
    pub fn sharing(&self, now: Duration, limit: Duration, at_work: &BTreeSet<MemberId>) -> u64 {
        let is_actor = |known: &Member| known.registration.role == Role::Actor;
        let recent = |known: &Member| known.asked.is_some_and(|asked| now < asked + limit);
        let shares = |(id, known): &(&MemberId, &Member)| {
            is_actor(known) && (recent(known) || at_work.contains(id))
        };
        self.members.iter().filter(shares).count() as u64
    }

    /// `None` if it had left already.
    pub fn leave(&mut self, member: MemberId) -> Option<Registration> {
        self.members.remove(&member).map(|known| known.registration)
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
            all.any(|known| known.role == role && known.index == index)
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

    fn registration(role: Role, index: u32, address: &str) -> Registration {
        let (address, admin_address) = (address.to_owned(), String::new());
        Registration { role, index, address, admin_address, ring_address: String::new() }
    }

    #[test]
    fn a_member_that_comes_back_replaces_itself() {
        let mut members = Membership::default();
        let (first, none) = members.register(registration(Role::WeakServer, 0, "a:1")).unwrap();
        assert_eq!(none, None);
        let (second, old) = members.register(registration(Role::WeakServer, 0, "a:2")).unwrap();
        assert_eq!(old, Some(first));
        assert_eq!(members.expect(first, Role::WeakServer), Err(MemberError::Unknown(first)));
        assert_eq!(members.expect(second, Role::WeakServer), Ok(()));
        let addresses: Vec<_> = members.of_role(Role::WeakServer);
        assert_eq!(addresses.iter().map(|m| &*m.address).collect::<Vec<_>>(), ["a:2"]);
    }

    #[test]
    fn roles_are_checked_and_the_missing_named() {
        let mut members = Membership::default();
        let (actor, _) = members.register(registration(Role::Actor, 1, "")).unwrap();
        let error = members.expect(actor, Role::Learner).unwrap_err().to_string();
        assert_eq!(error, "member 1 has the role actor, but this is for the role learner");
        let expected = MemberCounts { actors: 2, weak_servers: 0, learners: 1 };
        let missing = members.missing(&expected);
        assert_eq!(missing, ["actor-0", "learner-0"]);
        assert_eq!(members.name(actor), "actor-1");
        assert_eq!(members.leave(actor).unwrap().name(), "actor-1");
        assert_eq!((members.leave(actor), members.name(actor)), (None, "member 1".to_owned()));
    }

    #[test]
    fn a_watch_reopened_in_time_is_not_missed() {
        let mut members = Membership::default();
        let (actor, _) = members.register(registration(Role::Actor, 0, "")).unwrap();
        let seconds = Duration::from_secs;
        assert!(members.watched(actor) && members.watched(actor));
        members.unwatched(actor, seconds(1));
        assert_eq!(members.absent(seconds(99), seconds(5)), []);
        members.unwatched(actor, seconds(2));
        assert_eq!(members.absent(seconds(6), seconds(5)), []);
        assert_eq!(members.absent(seconds(7), seconds(5)), [actor]);
        assert!(members.watched(actor));
        assert_eq!(members.absent(seconds(99), seconds(5)), []);
        assert!(!members.watched(MemberId(9)));
    }

    #[test]
    fn row_11_a_second_process_of_the_same_name_is_refused_while_the_first_is_there() {
        let mut members = Membership::default();
        let (first, _) = members.register(registration(Role::Learner, 0, "a:1")).unwrap();
        assert!(members.watched(first));
        let refusal = members.register(registration(Role::Learner, 0, "a:2")).unwrap_err();
        assert!(refusal.to_string().starts_with("learner-0 is here already"), "{refusal}");
        assert_eq!(members.find(Role::Learner, 0), Some(first));
        members.unwatched(first, Duration::ZERO);
        let (second, old) = members.register(registration(Role::Learner, 0, "a:2")).unwrap();
        assert_eq!((old, members.find(Role::Learner, 0)), (Some(first), Some(second)));
        assert!(members.has_been(Role::Learner, 0) && !members.has_been(Role::Learner, 1));
    }
}
