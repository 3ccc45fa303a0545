//! Both ends of a connection: deadlines, keepalive, windows and message limits in one place.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

/// Bytes of one stream, and of one connection, that a server lets be on their way before it has
/// read them. hyper's own 1 MiB is less than one piece of a version, of which each then waits for
/// the one before.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How often a side that hears nothing asks whether the other is there.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Bounds of every connection.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    pub connect_timeout: Duration,
    /// Per unary call.
    pub call_timeout: Duration,
    /// Largest message sent or accepted.
    pub message_bytes_max: usize,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            message_bytes_max: 16 << 20,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("`{address}` is no address: write host:port")]
    Address { address: String, source: tonic::transport::Error },
    #[error("no connection to {address}: is that process running, and is the port right?")]
    Connect { address: String, source: tonic::transport::Error },
}

/// # Errors
/// A malformed address, or nobody answering within the timeout.
pub async fn connect(address: &str, settings: &ChannelSettings) -> Result<Channel, ChannelError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| ChannelError::Address { address: address.to_owned(), source })?
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(PING_INTERVAL);
    let channel = endpoint.connect().await;
    channel.map_err(|source| ChannelError::Connect { address: address.to_owned(), source })
}

/// The other end of [`connect`]: a server, and what it takes its connections from. Small messages
/// are sent at once, which a server's own `tcp_nodelay` does only for listeners that it opened.
#[must_use]
pub fn accept(listener: TcpListener) -> (Server, TcpIncoming) {
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    (server, TcpIncoming::from(listener).with_nodelay(Some(true)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_sends_small_messages_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_server, mut incoming) = accept(listener);
        let _client = TcpStream::connect(address).await.unwrap();
        let accepted = incoming.next().await.unwrap().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
