//! Connections as they come in: counted, encrypted, each within its time. Those beyond the bound
//! are closed at once, so that nobody waits for a place that does not come.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::connection::{Connection, Io};
use crate::guard::Guard;
use crate::listener::Protocol;

/// After a fault that is no peer's, such as a lack of file descriptors.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

type Handshake = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;

/// The connections of one port.
pub struct Incoming {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    /// A place for every connection that may be open, those in a handshake included.
    places: Arc<Semaphore>,
    /// The last connection found none.
    full: bool,
    timeout: Duration,
    handshakes: FuturesUnordered<Handshake>,
}

impl Incoming {
    pub(crate) fn new(tcp: TcpListener, protocol: Protocol, guard: &Guard) -> Self {
        let limits = guard.limits();
        let (alpn, places) = match protocol {
            Protocol::Grpc => (b"h2".to_vec(), limits.connections),
            Protocol::Admin => (b"http/1.1".to_vec(), limits.admin_connections),
        };
        let tls = guard.server_tls().cloned().map(|mut config| {
            config.alpn_protocols = vec![alpn];
            TlsAcceptor::from(Arc::new(config))
        });
        Self {
            tcp,
            tls,
            places: Arc::new(Semaphore::new(places as usize)),
            full: false,
            timeout: Duration::from_millis(u64::from(limits.handshake_timeout_ms)),
            handshakes: FuturesUnordered::new(),
        }
    }

    /// The next connection that can carry calls. Cancel-safe.
    pub async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                tcp = accept(&self.tcp) => {
                    if let Some(connection) = self.admit(tcp) {
                        return connection;
                    }
                }
                Some(shaken) = self.handshakes.next(), if !self.handshakes.is_empty() => {
                    if let Some(connection) = shaken {
                        return connection;
                    }
                }
            }
        }
    }

    /// Gives a connection a place, or closes it; an encrypted one must shake hands first.
    fn admit(&mut self, tcp: TcpStream) -> Option<Connection> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            if !std::mem::replace(&mut self.full, true) {
                tracing::warn!(
                    "no place for another connection, closing it: see limits.connections and \
                     limits.admin_connections"
                );
            }
            return None;
        };
        self.full = false;
        // Small messages are sent at once. A connection that is gone by now fails when it is read.
        let _ = tcp.set_nodelay(true);
        let timeout = self.timeout;
        let Some(tls) = &self.tls else {
            return Some(Connection::new(Io::Plain(tcp), place, timeout));
        };
        let shaking = tls.accept(tcp);
        self.handshakes.push(Box::pin(async move {
            match tokio::time::timeout(timeout, shaking).await {
                Ok(Ok(tls)) => Some(Connection::new(Io::Tls(Box::new(tls)), place, timeout)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no handshake");
                    None
                }
                Err(_) => {
                    tracing::debug!("no handshake in time");
                    None
                }
            }
        }));
        None
    }
}

/// The next connection, whatever becomes of others.
async fn accept(tcp: &TcpListener) -> TcpStream {
    loop {
        match tcp.accept().await {
            Ok((connection, _)) => return connection,
            Err(error) if is_peers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot take connections, will try again");
                tokio::time::sleep(FAULT_PAUSE).await;
            }
        }
    }
}

fn is_peers(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
