//! Where Prometheus finds the other processes of a run: their admin ports, in the form of its
//! `http_sd_configs`. Itself this process does not list: whoever asks knows it.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use telemetry::JsonRoute;

use crate::hub::Hub;

/// Of the list, on the admin port.
pub const PATH: &str = "/sd";

/// One admin port, and what its samples are labelled with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    targets: [String; 1],
    labels: Labels,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Labels {
    role: &'static str,
    name: String,
}

impl Target {
    /// `None` where there is no address.
    #[must_use]
    pub fn new(role: proto::Role, index: u32, address: &str) -> Option<Self> {
        let labels = Labels { role: role.name(), name: role.name_of(index) };
        (!address.is_empty()).then(|| Self { targets: [address.to_owned()], labels })
    }
}

/// The run whose processes are listed; none at first. Clones list the same.
#[derive(Clone, Debug, Default)]
pub struct Discovery(Arc<Mutex<Option<Hub>>>);

impl Discovery {
    /// Lists the members of this run from now on.
    pub fn follow(&self, hub: Hub) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hub);
    }

    /// The route that answers with the list, whole each time.
    #[must_use]
    pub fn route(&self) -> JsonRoute {
        let discovery = self.clone();
        JsonRoute::new(PATH, move || discovery.json())
    }

    fn json(&self) -> String {
        let hub = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let listed = hub.map(|hub| {
            let now = hub.now();
            hub.with(|state| state.targets(now))
        });
        serde_json::to_string(&listed.unwrap_or_default()).expect("names have a JSON form")
    }
}

#[cfg(test)]
mod tests {
    use proto::{Registration, Role};
    use settings::Settings;

    use super::*;
    use crate::fixtures::registration;
    use crate::hub::Records;
    use crate::source::Source;
    use crate::spec::RunSpec;
    use crate::state::RunState;

    #[test]
    fn the_list_is_empty_at_first_and_then_of_the_run_that_is_followed() {
        let discovery = Discovery::default();
        assert_eq!(discovery.json(), "[]");
        let settings = Settings::default();
        let source = Source::open(&settings).unwrap();
        let spec = RunSpec::launch(&settings, &source, 1).unwrap();
        let hub = Hub::new(RunState::new(spec, source), 1, Records::default());
        discovery.follow(hub.clone());
        assert_eq!(discovery.json(), "[]");
        let member = |role, index, admin: &str| {
            let admin_address = admin.to_owned();
            Registration { admin_address, ..registration(role, index, "b:1") }
        };
        for member in [
            member(Role::WeakServer, 0, "10.0.0.7:9100"),
            member(Role::Actor, 1, "127.0.0.1:4711"),
            member(Role::Actor, 0, ""),
        ] {
            hub.change(|state| state.register(member)).unwrap();
        }
        let expected = r#"[{"targets":["127.0.0.1:4711"],"labels":{"role":"actor","name":"actor-1"}},{"targets":["10.0.0.7:9100"],"labels":{"role":"weak-server","name":"weak-server-0"}}]"#;
        assert_eq!(discovery.json(), expected);
    }
}
