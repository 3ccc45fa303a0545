//! Who has left and how, and for how long the admin port of one that is missing is still asked:
//! whoever watches the run is to see that it does not answer. Who takes part is `membership`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Departure, Registration, Role};

/// A member that was lost, or failed, is listed for so long after its leases have ended.
pub const LISTED_FOR: Duration = Duration::from_secs(60);

/// Missing members that are listed; the one that left first makes room.
const LISTED_MAX: usize = 1024;

/// How members leave; none: without a word.
pub const WAYS: [Option<Departure>; 4] =
    [Some(Departure::Ordered), Some(Departure::Failed), Some(Departure::NotFinite), None];

/// For metrics and logs.
#[must_use]
pub fn way_name(how: Option<Departure>) -> &'static str {
    how.map_or("lost", Departure::name)
}

/// All departures of a run, and those that are too recent to be forgotten.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    counts: BTreeMap<(Role, Option<Departure>), u64>,
    /// When each left, and where it answered.
    missing: BTreeMap<(Role, u32), (Duration, String)>,
}

impl Departures {
    /// A process of this role left, and will not be looked for.
    pub fn count(&mut self, role: Role, how: Option<Departure>) {
        *self.counts.entry((role, how)).or_default() += 1;
    }

    /// A member left; its leases have ended.
    pub fn left(&mut self, member: Registration, how: Option<Departure>, now: Duration) {
        self.count(member.role, how);
        let Registration { role, index: Some(index), admin_address, .. } = member else { return };
        if how == Some(Departure::Ordered) {
            self.missing.remove(&(role, index));
            return;
        }
        self.missing.retain(|_, (since, _)| now < *since + LISTED_FOR);
        if self.missing.len() >= LISTED_MAX {
            let first = self.missing.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(first) = first.map(|(place, _)| *place) {
                self.missing.remove(&first);
            }
        }
        self.missing.insert((role, index), (now, admin_address));
    }

    /// A process of this role and index is here: whoever was it before is missed no more.
    pub fn came(&mut self, role: Role, index: u32) {
        self.missing.remove(&(role, index));
    }

    #[must_use]
    pub fn of(&self, role: Role, how: Option<Departure>) -> u64 {
        self.counts.get(&(role, how)).copied().unwrap_or_default()
    }

    /// Role, index and admin address of those that are still listed.
    pub fn missing(&self, now: Duration) -> impl Iterator<Item = (Role, u32, &str)> {
        let listed = self.missing.iter().filter(move |(_, (since, _))| now < *since + LISTED_FOR);
        listed.map(|((role, index), (_, address))| (*role, *index, address.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::registration;

    fn member(index: u32) -> Registration {
        let admin_address = format!("a:{index}");
        Registration { admin_address, ..registration(Role::Actor, index, "") }
    }

    fn listed(departures: &Departures, seconds: u64) -> Vec<(Role, u32, &str)> {
        departures.missing(Duration::from_secs(seconds)).collect()
    }

    #[test]
    fn one_that_is_missing_is_listed_for_a_minute_or_until_it_is_back() {
        let mut departures = Departures::default();
        let seconds = Duration::from_secs;
        departures.left(member(0), None, seconds(10));
        departures.left(member(1), Some(Departure::NotFinite), seconds(20));
        departures.left(member(2), Some(Departure::Ordered), seconds(20));
        let (first, second) = ((Role::Actor, 0, "a:0"), (Role::Actor, 1, "a:1"));
        assert_eq!(listed(&departures, 69), [first, second]);
        assert_eq!(listed(&departures, 70), [second]);
        departures.came(Role::Actor, 1);
        assert_eq!(listed(&departures, 21), [first]);
        // The one that was missing came back as another process, and that one left in order.
        departures.left(member(0), Some(Departure::Ordered), seconds(22));
        assert_eq!(listed(&departures, 23), []);
    }

    #[test]
    fn departures_are_counted_by_role_and_way() {
        let mut departures = Departures::default();
        for how in [None, Some(Departure::Ordered), None] {
            departures.left(member(0), how, Duration::ZERO);
        }
        departures.count(Role::Learner, None);
        let counts = |role| WAYS.map(|how| departures.of(role, how));
        assert_eq!(counts(Role::Actor), [1, 0, 0, 2]);
        assert_eq!(counts(Role::Learner), [0, 0, 0, 1]);
        assert_eq!(WAYS.map(way_name), ["ordered", "failed", "not_finite", "lost"]);
    }

    #[test]
    fn the_list_has_an_end() {
        let mut departures = Departures::default();
        for index in 0..=LISTED_MAX as u32 {
            departures.left(member(index), None, Duration::from_millis(u64::from(index)));
        }
        let listed = listed(&departures, 1);
        assert_eq!((listed.len(), listed[0].1), (LISTED_MAX, 1), "the first has made room");
    }
}
