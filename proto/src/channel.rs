//! Connecting to a peer: deadlines, keepalive and message limits in one place.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

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
        .http2_keep_alive_interval(Duration::from_secs(10));
    let channel = endpoint.connect().await;
    channel.map_err(|source| ChannelError::Connect { address: address.to_owned(), source })
}
