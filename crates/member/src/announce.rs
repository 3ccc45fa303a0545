//! The addresses by which others reach this process. Which ports it opens, and on which of its
//! interfaces, is in the settings.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{UdpSocket, lookup_host};

/// The host by which others reach ports that are bound to all interfaces: `network.advertise`, or
/// this machine's address towards the coordinator.
///
/// # Errors
/// The coordinator's address cannot be resolved, or there is no way to it.
pub(crate) async fn own_host(advertise: &str, coordinator: &str) -> std::io::Result<String> {
    if !advertise.is_empty() {
        return Ok(advertise.to_owned());
    }
    let mut fault = Error::new(ErrorKind::AddrNotAvailable, "the name has no address");
    for peer in lookup_host(coordinator).await? {
        match towards(peer).await {
            Ok(own) => return Ok(own.to_string()),
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

/// How others name a bound port; what is none stays as it is.
pub(crate) fn announced(address: &str, own_host: &str) -> String {
    let Ok(bound) = address.parse::<SocketAddr>() else { return address.to_owned() };
    if !bound.ip().is_unspecified() {
        return address.to_owned();
    }
    match own_host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, bound.port()).to_string(),
        Err(_) => format!("{own_host}:{}", bound.port()),
    }
}

/// The address that the system would send from. Nothing is sent.
async fn towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_host_is_given_or_is_the_way_to_the_coordinator() {
        assert_eq!(own_host("", "127.0.0.1:7000").await.unwrap(), "127.0.0.1");
        assert_eq!(own_host("gpu-3", "no-such-host.invalid:1").await.unwrap(), "gpu-3");
        assert!(own_host("", "no-such-host.invalid:1").await.is_err());
    }

    #[test]
    fn only_ports_that_are_bound_to_all_interfaces_need_a_host() {
        assert_eq!(announced("0.0.0.0:7001", "10.0.0.7"), "10.0.0.7:7001");
        assert_eq!(announced("[::]:7001", "fd00::7"), "[fd00::7]:7001");
        assert_eq!(announced("0.0.0.0:7001", "gpu-3"), "gpu-3:7001");
        assert_eq!(announced("127.0.0.1:7001", "gpu-3"), "127.0.0.1:7001");
        assert_eq!(announced("", "gpu-3"), "", "an actor has no port for peers");
    }
}
