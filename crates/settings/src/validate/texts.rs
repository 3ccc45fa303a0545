//! Rules about texts that programs read: addresses and log filters.

use std::net::{IpAddr, SocketAddr};

use crate::schema::Settings;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) fn faults(s: &Settings, faults: &mut Vec<String>) {
    if s.admin.listen.parse::<SocketAddr>().is_err() {
        faults.push(format!(
            "admin.listen is `{}`: write an IP address and a port, like 127.0.0.1:0",
            s.admin.listen
        ));
    }
    let addresses = [
        ("coordinator.listen", &s.coordinator.listen),
        ("coordinator.address", &s.coordinator.address),
        ("learner.listen", &s.learner.listen),
        ("learner.ring_listen", &s.learner.ring_listen),
        ("weak_server.listen", &s.weak_server.listen),
    ];
    for (key, address) in addresses {
        let unset = key == "coordinator.address" && address.is_empty();
        if !unset && !is_address(address) {
            faults.push(format!("{key} is `{address}`: write HOST:PORT, like 127.0.0.1:0"));
        }
    }
    let host = &s.network.advertise;
    if !is_host(host) {
        faults.push(format!(
            "network.advertise is `{host}`: write a host name or an address, without a port"
        ));
    }
    tracking(s, faults);
    if let Some(directive) = split_directives(&s.log.filter).find(|d| !is_directive(d)) {
        faults.push(format!(
            "log.filter has `{directive}`: write a level, or TARGET=LEVEL, like \
             warn,coordinator=debug; levels are {}",
            LEVELS.join(", ")
        ));
    }
}

fn tracking(s: &Settings, faults: &mut Vec<String>) {
    let address = &s.track.mlflow;
    let (_, rest) = address.split_once("://").unwrap_or_default();
    let http = address.starts_with("http://") || address.starts_with("https://");
    let is_server = http && !rest.is_empty() && !rest.starts_with('/');
    if rest.split('/').next().is_some_and(|host| host.contains('@')) {
        faults.push(
            "track.mlflow holds a name or a password: leave it out, and give a token in \
             MLFLOW_TRACKING_TOKEN"
                .to_owned(),
        );
    } else if !address.is_empty() && !is_server {
        faults.push(format!(
            "track.mlflow is `{address}`: write the address of a server, like \
             http://127.0.0.1:5000"
        ));
    }
    if !address.is_empty() && s.track.experiment.is_empty() {
        faults.push("track.experiment is empty: give the name of an MLflow experiment".to_owned());
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// An address of IPv6 has colons but no port; empty says nothing.
fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || !text.contains(|c: char| c == ':' || c == '/' || c.is_whitespace())
}

/// Commas inside `[span{field=value}]` part nothing.
fn split_directives(filter: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    filter.split(move |c| {
        depth += i32::from(matches!(c, '[' | '{')) - i32::from(matches!(c, ']' | '}'));
        c == ',' && depth == 0
    })
}

/// `LEVEL`, `TARGET`, `TARGET=LEVEL`, each target with or without a `[span]`.
fn is_directive(directive: &str) -> bool {
    let end = directive.rfind(']').map_or(0, |at| at + 1);
    let is_level = |text: &str| {
        let text = text.trim().to_lowercase();
        LEVELS.contains(&text.as_str())
            || matches!(text.as_str(), "0" | "1" | "2" | "3" | "4" | "5")
    };
    let has_space = |text: &str| text.trim().contains(char::is_whitespace);
    match directive[end..].split_once('=') {
        Some((target, level)) => is_level(level) && !has_space(target),
        None => !has_space(&directive[end..]),
    }
}
