//! The credentials of one process, ready for use: the one check of tokens, and what encrypts its
//! connections in both directions.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use settings::{Limits, Settings};

use crate::files::{Authority, CredentialError, Files, Identity};
use crate::token::{Denied, Token};

/// Credentials and bounds. The default has none of the one, and the settings' own of the other:
/// plaintext on this machine. Cheap to clone; shows no secret.
#[derive(Clone, Default)]
pub struct Guard(Arc<Inner>);

#[derive(Default)]
struct Inner {
    token: Option<Token>,
    server: Option<Arc<ServerConfig>>,
    /// Whoever connects must show a certificate.
    mutual: bool,
    client: Option<ClientTls>,
    /// The same for connections of threads.
    client_config: Option<Arc<ClientConfig>>,
    limits: Limits,
}

/// What a process that connects needs to know, in PEM.
#[derive(Clone)]
pub struct ClientTls {
    pub authority: Vec<u8>,
    /// Certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// In the place of the host that is connected to.
    pub peer_name: Option<String>,
}

impl Guard {
    /// Opens the files that the settings name.
    ///
    /// # Errors
    /// All their faults together.
    pub fn open(settings: &Settings) -> Result<Self, CredentialError> {
        let security = &settings.security;
        let Files { token, identity, authority } = Files::read(security)?;
        let client = authority.as_ref().map(|authority| ClientTls {
            authority: authority.pem.clone(),
            identity: identity.as_ref().map(|own| (own.chain_pem.clone(), own.key_pem.clone())),
            peer_name: Some(security.peer_name.clone()).filter(|name| !name.is_empty()),
        });
        let mutual = security.client_certificates;
        let unusable = |fault: rustls::Error| {
            let (certificate, key) = (&security.certificate, &security.key);
            CredentialError(vec![format!("{certificate} and {key} cannot be used: {fault}")])
        };
        let client_config = authority.as_ref().map(|at| client_config(at, identity.as_ref()));
        let client_config = client_config.transpose().map_err(unusable)?.map(Arc::new);
        let server = identity.map(|own| server_config(own, authority.filter(|_| mutual)));
        let server = server.transpose().map_err(unusable)?.map(Arc::new);
        let limits = settings.limits.clone();
        Ok(Self(Arc::new(Inner { token, server, mutual, client, client_config, limits })))
    }

    /// Whether a call may be made, by its `authorization` header. The one place that decides it.
    ///
    /// # Errors
    /// The run has a token, and this is not it.
    pub fn authorize(&self, header: Option<&[u8]>) -> Result<(), Denied> {
        self.0.token.as_ref().map_or(Ok(()), |token| token.check(header))
    }

    /// What calls to others carry in their `authorization` header.
    #[must_use]
    pub fn bearer(&self) -> Option<String> {
        self.0.token.as_ref().map(Token::bearer)
    }

    /// None: connections are not encrypted, and go to this machine only.
    #[must_use]
    pub fn client_tls(&self) -> Option<&ClientTls> {
        self.0.client.as_ref()
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Whether a connection may leave this process for that host.
    #[must_use]
    pub fn may_connect(&self, host: &str) -> bool {
        self.0.client.is_some() || is_loopback(host)
    }

    /// Whether other machines may reach a port of this process.
    #[must_use]
    pub fn may_listen(&self, at: IpAddr) -> bool {
        let inner = &*self.0;
        let protected = inner.server.is_some() && (inner.token.is_some() || inner.mutual);
        protected || at.is_loopback()
    }

    /// Whether connections of this process are encrypted in both directions.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.0.server.is_some() && self.0.client.is_some()
    }

    pub(crate) fn server_tls(&self) -> Option<&ServerConfig> {
        self.0.server.as_deref()
    }

    pub(crate) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.0.server.clone()
    }

    pub(crate) fn client_config(&self) -> Option<Arc<ClientConfig>> {
        self.0.client_config.clone()
    }

    pub(crate) fn peer_name(&self) -> Option<&str> {
        self.0.client.as_ref()?.peer_name.as_deref()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { token, server, mutual, client, .. } = &*self.0;
        f.debug_struct("Guard")
            .field("token", token)
            .field("serves_encrypted", &server.is_some())
            .field("client_certificates", mutual)
            .field("connects_encrypted", &client.is_some())
            .finish_non_exhaustive()
    }
}

/// Of a `host` or `host:port` as it is written in an address.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn client_config(
    authority: &Authority,
    own: Option<&Identity>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in &authority.certificates {
        roots.add(certificate.clone())?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    match own {
        None => Ok(config.with_no_client_auth()),
        Some(own) => config.with_client_auth_cert(own.chain.clone(), own.key.clone_key()),
    }
}

fn server_config(own: Identity, clients: Option<Authority>) -> Result<ServerConfig, rustls::Error> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for certificate in authority.certificates {
                roots.add(certificate)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    config.with_single_cert(own.chain, own.key)
}
