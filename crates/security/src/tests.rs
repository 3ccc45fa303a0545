//! Ports and credentials with real files and connections.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use settings::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Connection, Guard, Incoming, ListenError, Listener, Protocol};

const AMPLE: Duration = Duration::from_secs(30);
const TOKEN: &str = "a token of the tests, long enough to be one";

/// Credentials as files, and the settings that name them.
struct Made {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = ca.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(ca, key);
        let own = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&own, &issuer).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let security = &mut settings.security;
        security.authority = write("ca.pem", &authority);
        security.certificate = write("cert.pem", &certificate.pem());
        security.key = write("key.pem", &own.serialize_pem());
        security.token_file = write("token", &TOKEN.replace(' ', "-"));
        Self { dir, settings }
    }

    fn guard(&self) -> Guard {
        Guard::open(&self.settings).unwrap()
    }

    fn faults(&self) -> String {
        Guard::open(&self.settings).unwrap_err().to_string()
    }

    fn client(&self, identity: bool) -> TlsConnector {
        let security = &self.settings.security;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&security.authority).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = if identity {
            let chain = vec![CertificateDer::from_pem_file(&security.certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&security.key).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

async fn listen(guard: &Guard) -> Listener {
    Listener::bind("127.0.0.1:0", "x.listen", Protocol::Grpc, guard).await.unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(AMPLE, future).await.expect("it takes too long")
}

#[tokio::test]
async fn only_protected_ports_are_open_to_other_machines() {
    let bind = async |guard: &Guard, listen: &str| {
        Listener::bind(listen, "learner.listen", Protocol::Grpc, guard).await
    };
    let plain = Guard::default();
    assert!(bind(&plain, "127.0.0.1:0").await.is_ok());
    let error = bind(&plain, "0.0.0.0:0").await.unwrap_err();
    assert!(matches!(error, ListenError::Open { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("learner.listen is 0.0.0.0:"), "{text}");
    assert!(text.contains("security.token_file") && text.contains("credentials DIR"), "{text}");

    let mut made = Made::new();
    assert!(bind(&made.guard(), "0.0.0.0:0").await.is_ok());
    let token = std::mem::take(&mut made.settings.security.token_file);
    let error = bind(&made.guard(), "0.0.0.0:0").await.unwrap_err();
    assert!(matches!(error, ListenError::Open { .. }), "encryption alone: {error}");
    made.settings.security.client_certificates = true;
    assert!(bind(&made.guard(), "0.0.0.0:0").await.is_ok(), "client certificates alone");

    let mut token_alone = Settings::default();
    token_alone.security.token_file = token;
    let guard = Guard::open(&token_alone).unwrap();
    let error = bind(&guard, "0.0.0.0:0").await.unwrap_err();
    assert!(matches!(error, ListenError::Open { .. }), "a token in plaintext: {error}");
    let taken = listen(&plain).await;
    let text = bind(&plain, &taken.address().to_string()).await.unwrap_err().to_string();
    assert!(text.contains("choose another port") && text.contains("learner.listen"), "{text}");
}

fn set_mode(path: &str, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn all_faults_of_credentials_are_reported_together_and_show_no_secret() {
    let mut made = Made::new();
    let security = made.settings.security.clone();
    let shown = format!("{:?}", made.guard());
    assert!(!shown.contains("a-token") && !shown.contains("PRIVATE"), "{shown}");
    set_mode(&security.key, 0o620);
    std::fs::write(&security.token_file, "short-secret").unwrap();
    std::fs::write(&security.authority, "no PEM at all").unwrap();
    made.settings.security.certificate = "/nowhere/cert.pem".to_owned();
    let text = made.faults();
    assert!(text.starts_with("credentials have 4 fault(s):"), "{text}");
    for fault in [
        "security.token_file is ",
        "a token of 12 characters",
        "security.certificate is /nowhere/cert.pem, which cannot be read: No such file",
        "key.pem, which may be written by others than its owner: `chmod go-w` it",
        "ca.pem, which holds no certificate in PEM",
    ] {
        assert!(text.contains(fault), "no `{fault}` in {text}");
    }
    assert!(!text.contains("short-secret"), "{text}");
    let made = Made::new();
    std::fs::write(&made.settings.security.key, KeyPair::generate().unwrap().serialize_pem())
        .unwrap();
    assert!(made.faults().contains("cannot be used"), "another key: {}", made.faults());
    let long = PathBuf::from(made.dir.path()).join("long");
    std::fs::write(&long, vec![b'x'; (1 << 20) + 1]).unwrap();
    let mut made = made;
    made.settings.security.token_file = long.to_str().unwrap().to_owned();
    assert!(made.faults().contains("has more than 1048576 bytes"), "{}", made.faults());
    assert!(Path::new(&made.settings.security.key).exists());
}

/// The next connection and a client's end of it.
async fn pair(incoming: &mut Incoming, to: std::net::SocketAddr) -> (Connection, TcpStream) {
    let (accepted, client) = tokio::join!(incoming.next(), TcpStream::connect(to));
    (accepted, client.unwrap())
}

/// Whether the other end closes.
async fn is_closed(client: &mut TcpStream) -> bool {
    within(client.read(&mut [0; 8])).await.is_ok_and(|read| read == 0)
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_and_places_come_back() {
    let mut settings = Settings::default();
    settings.limits.connections = 2;
    let listener = listen(&Guard::open(&settings).unwrap()).await;
    let address = listener.address();
    let mut incoming = listener.incoming();
    let (first, _client) = pair(&mut incoming, address).await;
    let (_second, _other) = pair(&mut incoming, address).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    tokio::select! {
        _ = incoming.next() => panic!("a third connection was let in"),
        closed = is_closed(&mut third) => assert!(closed),
    }
    drop(first);
    let (_again, _) = within(pair(&mut incoming, address)).await;
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_in_time_and_others_may_idle() {
    let mut settings = Settings::default();
    settings.limits.handshake_timeout_ms = 50;
    let listener = listen(&Guard::open(&settings).unwrap()).await;
    let address = listener.address();
    let mut incoming = listener.incoming();
    let (mut idle, _client) = pair(&mut incoming, address).await;
    let started = tokio::time::Instant::now();
    let error = within(idle.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let limit = Duration::from_millis(50);
    assert!(started.elapsed() >= limit - Duration::from_millis(1), "{:?}", started.elapsed());

    let (mut proven, mut client) = pair(&mut incoming, address).await;
    proven.proof().give();
    let mut byte = [0; 1];
    let waited = tokio::time::timeout(limit * 10, proven.read(&mut byte)).await;
    assert!(waited.is_err(), "it may idle: {waited:?}");
    client.write_all(b"x").await.unwrap();
    assert_eq!((proven.read(&mut byte).await.unwrap(), byte), (1, *b"x"));
}

#[tokio::test]
async fn what_is_accepted_sends_small_messages_at_once() {
    let listener = listen(&Guard::default()).await;
    let address = listener.address();
    let (accepted, _client) = pair(&mut listener.incoming(), address).await;
    assert_eq!(accepted.nodelay(), Some(true));
}

/// A client's encrypted end, once the server has accepted or refused it.
async fn shake(made: &Made, identity: bool) -> std::io::Result<TlsStream<TcpStream>> {
    let listener = listen(&made.guard()).await;
    let address = listener.address();
    let mut incoming = listener.incoming();
    let client = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut tls = made.client(identity).connect(name, tcp).await?;
        // A server's refusal of a certificate comes after the client's part of the handshake.
        let mut byte = [0; 1];
        tls.read_exact(&mut byte).await?;
        Ok(tls)
    };
    let server = async {
        let mut connection = incoming.next().await;
        connection.write_all(b"x").await.unwrap();
        connection.flush().await.unwrap();
        std::future::pending::<()>().await;
    };
    within(async {
        tokio::select! {
            done = client => done,
            () = server => unreachable!("the server goes on"),
        }
    })
    .await
}

#[tokio::test]
async fn encrypted_ports_ask_for_certificates_where_they_should() {
    let mut made = Made::new();
    let tls = shake(&made, false).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    made.settings.security.client_certificates = true;
    let refused = shake(&made, false).await.unwrap_err().to_string();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    assert!(shake(&made, true).await.is_ok());
}
