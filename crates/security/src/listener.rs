//! Ports: none that other machines reach is opened without protection. What comes in on them is
//! `incoming`'s.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::guard::Guard;
use crate::incoming::Incoming;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 calls between the programs.
    Grpc,
    /// HTTP/1.1 of an admin port.
    Admin,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {listen} ({key}): choose another port, or 0 for a free one")]
    Bind { listen: String, key: &'static str, source: io::Error },
    #[error(
        "{key} is {address}, which other machines reach: set security.certificate, security.key, \
         security.authority and security.token_file (`coordinator credentials DIR` makes them), \
         or listen on 127.0.0.1"
    )]
    Open { key: &'static str, address: SocketAddr },
}

/// A bound port that takes no connections yet.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    protocol: Protocol,
    guard: Guard,
}

impl Listener {
    /// Listens on `host:port`, the value of the setting `key`; port 0 takes a free one.
    ///
    /// # Errors
    /// The port is in use, the address is none of this machine's, or other machines reach it and
    /// nothing protects it.
    pub async fn bind(
        listen: &str,
        key: &'static str,
        protocol: Protocol,
        guard: &Guard,
    ) -> Result<Self, ListenError> {
        let fault = |source| ListenError::Bind { listen: listen.to_owned(), key, source };
        let tcp = TcpListener::bind(listen).await.map_err(fault)?;
        // A name may stand for any address: what counts is the one that was bound.
        let address = tcp.local_addr().map_err(fault)?;
        if !guard.may_listen(address.ip()) {
            return Err(ListenError::Open { key, address });
        }
        Ok(Self { tcp, address, protocol, guard: guard.clone() })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Begins to take connections.
    #[must_use]
    pub fn incoming(self) -> Incoming {
        Incoming::new(self.tcp, self.protocol, &self.guard)
    }
}
