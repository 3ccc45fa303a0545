//! The caller's end of every connection: deadlines, keepalive, encryption and the run's token. The
//! server's end is `accept`'s.

use std::error::Error;
use std::iter::successors;
use std::time::Duration;
use std::{fmt, io};

use security::{ClientTls, Guard};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// How often a side that hears nothing asks whether the other is there.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Bounds of every connection, and what it is protected by.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    pub connect_timeout: Duration,
    /// Per unary call.
    pub call_timeout: Duration,
    /// Largest message sent or accepted.
    pub message_bytes_max: usize,
    pub guard: Guard,
}

impl ChannelSettings {
    /// Those of the guard's own limits.
    #[must_use]
    pub fn new(guard: &Guard) -> Self {
        let limits = guard.limits();
        Self {
            connect_timeout: Duration::from_millis(u64::from(limits.connect_timeout_ms)),
            call_timeout: Duration::from_millis(u64::from(limits.call_timeout_ms)),
            message_bytes_max: usize::try_from(limits.message_bytes).unwrap_or(usize::MAX),
            guard: guard.clone(),
        }
    }
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self::new(&Guard::default())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("`{address}` is no address: write host:port")]
    Address { address: String, source: tonic::transport::Error },
    #[error(
        "{address} is on another machine, and plaintext stays on this one: set security.authority \
         to the run's certificate authority"
    )]
    Plaintext { address: String },
    #[error("security.authority, security.certificate or security.key cannot be used")]
    Credentials { source: tonic::transport::Error },
    #[error("no connection to {address}: is that process running, and is the port right?")]
    Connect { address: String, source: tonic::transport::Error },
    #[error("no encrypted connection to {address}: {fault}")]
    Handshake { address: String, fault: String },
}

impl ChannelError {
    fn of(address: &str, source: tonic::transport::Error) -> Self {
        let address = address.to_owned();
        match handshake_fault(&source) {
            Some(fault) => Self::Handshake { address, fault },
            None => Self::Connect { address, source },
        }
    }
}

/// What either side held against the other's certificate or protocol: rustls says that as invalid
/// data.
fn handshake_fault(error: &(dyn Error + 'static)) -> Option<String> {
    let mut causes = successors(Some(error), |error| (*error).source());
    causes.find_map(|cause| {
        let broken: &io::Error = cause.downcast_ref()?;
        (broken.kind() == io::ErrorKind::InvalidData).then(|| broken.to_string())
    })
}

/// A connection on which every call carries the run's token, if there is one.
pub type Line = InterceptedService<Channel, Bearer>;

/// Puts the token on every call, and the trace that it belongs to.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn of(guard: &Guard) -> Self {
        Self(guard.bearer().map(|text| {
            let mut value = MetadataValue::try_from(text).expect("a token has ASCII signs only");
            value.set_sensitive(true);
            value
        }))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        trace::inject(|key, value| {
            if let Ok(value) = value.parse() {
                request.metadata_mut().insert(key, value);
            }
        });
        Ok(request)
    }
}

/// # Errors
/// A malformed address, one on another machine without encryption, or nobody answering within the
/// timeout; a peer whose certificate does not hold.
pub async fn connect(address: &str, settings: &ChannelSettings) -> Result<Line, ChannelError> {
    let tls = settings.guard.client_tls();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|source| ChannelError::Address { address: address.to_owned(), source })?
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(PING_INTERVAL);
    if !settings.guard.may_connect(endpoint.uri().host().unwrap_or_default()) {
        return Err(ChannelError::Plaintext { address: address.to_owned() });
    }
    if let Some(tls) = tls {
        let encrypted = endpoint.tls_config(client_config(tls, settings.connect_timeout));
        endpoint = encrypted.map_err(|source| ChannelError::Credentials { source })?;
    }
    let channel = endpoint.connect().await;
    channel
        .map(|channel| line(channel, settings))
        .map_err(|source| ChannelError::of(address, source))
}

/// A line over a connection that is there already, and that whoever made it answers for.
#[must_use]
pub fn line(channel: Channel, settings: &ChannelSettings) -> Line {
    InterceptedService::new(channel, Bearer::of(&settings.guard))
}

fn client_config(tls: &ClientTls, timeout: Duration) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&tls.authority))
        .timeout(timeout);
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.peer_name {
        config = config.domain_name(name);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plaintext_stays_on_this_machine() {
        for address in
            ["10.0.0.7:7000", "coordinator:7000", "[2001:db8::1]:7000", "127.0.0.1.evil:1"]
        {
            let error = connect(address, &ChannelSettings::default()).await.unwrap_err();
            assert!(matches!(error, ChannelError::Plaintext { .. }), "{address}: {error}");
            assert!(error.to_string().contains("security.authority"), "{error}");
        }
        let quick = ChannelSettings {
            connect_timeout: Duration::from_millis(1),
            ..ChannelSettings::default()
        };
        for address in ["127.0.0.1:1", "localhost:1", "[::1]:1"] {
            let error = connect(address, &quick).await.unwrap_err();
            assert!(matches!(error, ChannelError::Connect { .. }), "{address}: {error}");
        }
    }
}
