//! Settings that children must be told because their own layers would say otherwise. What the
//! settings mean is decided elsewhere.

use settings::Settings;

use crate::membership::MemberCounts;
use toml::{Table, Value};

const PREFIX: &str = "TANDEM__";

/// Every setting that the environment names, as `KEY=VALUE` with the value that this process
/// resolved: children read the environment too, after the run's file, and flags win here.
#[must_use]
pub fn pinned(settings: &Settings, variables: impl Iterator<Item = String>) -> Vec<String> {
    let table: Table = settings.to_toml().parse().expect("the canonical text of settings is TOML");
    let pinned = variables.filter_map(|name| {
        let key = name.strip_prefix(PREFIX)?.to_lowercase().replace("__", ".");
        Some(format!("{key}={}", lookup(&table, &key)?))
    });
    pinned.collect()
}

/// Children on the same machine cannot share one fixed admin port: theirs is any free one.
#[must_use]
pub fn free_admin_port(settings: &Settings) -> Option<String> {
    let (host, port) = settings.admin.listen.rsplit_once(':')?;
    (port != "0").then(|| format!("admin.listen=\"{host}:0\""))
}

/// A session and a place in the queue for every slot of every actor of a server, and a stream for
/// each actor: with fewer sessions, live ones would evict each other and each be computed anew at
/// every handoff. Actors are spread over the servers in turn, and may all come to one that is left.
#[must_use]
pub fn weak_room(settings: &Settings, members: MemberCounts) -> Vec<String> {
    let (slots, weak) = (slots_of_a_server(settings, members), &settings.weak_server);
    // An actor that comes back may still hold its old stream.
    let streams = members.actors.saturating_mul(2);
    let needed = [
        ("sessions", weak.sessions, slots),
        ("queue_requests", weak.queue_requests, slots),
        ("streams", weak.streams, streams),
    ];
    let short = needed.into_iter().filter(|(_, set, needed)| needed > set);
    short.map(|(key, _, needed)| format!("weak_server.{key}={needed}")).collect()
}

/// The sessions that a weak-server then has.
#[must_use]
pub fn weak_sessions(settings: &Settings, members: MemberCounts) -> u32 {
    settings.weak_server.sessions.max(slots_of_a_server(settings, members))
}

fn slots_of_a_server(settings: &Settings, members: MemberCounts) -> u32 {
    let actors = members.actors.div_ceil(members.weak_servers.max(1));
    actors.saturating_mul(settings.actor.slots)
}

/// `KEY=VALUE` with a text as TOML writes it.
#[must_use]
pub fn text(key: &str, value: &str) -> String {
    format!("{key}={}", Value::String(value.to_owned()))
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = value.get(part)?;
    }
    (!value.is_table()).then_some(value)
}

#[cfg(test)]
mod tests {
    use settings::Layers;

    use super::*;

    #[test]
    fn children_see_what_was_resolved_whatever_the_environment_says() {
        let mut resolved = Settings::default();
        resolved.train.steps = 3;
        resolved.run.dir = "7".to_owned();
        let environment = [("TANDEM__TRAIN__STEPS", "5"), ("TANDEM__RUN__DIR", "x"), ("HOME", "/")];
        let names = environment.iter().map(|(name, _)| (*name).to_owned());
        let set = pinned(&resolved, names);
        assert_eq!(set, ["train.steps=3", "run.dir=\"7\""]);
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let environment = Some(environment.iter().map(pair).collect());
        let child = Layers { file: None, set, environment }.load().unwrap();
        assert_eq!(child, resolved);
    }

    #[test]
    fn many_actors_get_more_room_at_the_weak_server_and_few_keep_the_settings() {
        let settings = Settings::default();
        let weak_room = |settings: &Settings, actors, weak_servers| {
            super::weak_room(settings, MemberCounts { actors, weak_servers, learners: 1 })
        };
        assert!(weak_room(&settings, 4, 1).is_empty());
        assert_eq!(weak_room(&settings, 8, 1), ["weak_server.sessions=512"]);
        assert!(weak_room(&settings, 8, 2).is_empty());
        assert_eq!(weak_room(&settings, 9, 2), ["weak_server.sessions=320"]);
        let room = ["sessions=12800", "queue_requests=12800", "streams=400"];
        assert_eq!(weak_room(&settings, 200, 1), room.map(|key| format!("weak_server.{key}")));
    }

    #[test]
    fn a_fixed_admin_port_is_the_coordinators_own() {
        let mut settings = Settings::default();
        assert_eq!(free_admin_port(&settings), None);
        settings.admin.listen = "0.0.0.0:9090".to_owned();
        assert_eq!(free_admin_port(&settings).unwrap(), "admin.listen=\"0.0.0.0:0\"");
    }
}
