//! Who is let in: every call and every admin route of a running run, by their own tables, with and
//! without the credentials that they ask for.

use std::path::Path;
use std::time::Duration;

use proto::ChannelSettings;
use security::{Guard, Listener, Protocol};
use settings::{Security, Settings};
use telemetry::AdminServer;
use tests::{Run, TestAuthority, admin_address, log_field, wait_until};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::{LIMIT, small};

const TOKEN: &str = "the-token-of-this-run-0123456789abcdef";
const WRONG: &str = "the-token-of-this-run-0123456789abcdeg";

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It reached the service, whatever that said to an empty message.
    Served,
    /// `UNAUTHENTICATED`, or 401.
    Unauthenticated,
    /// No connection that carries a call.
    NoConnection,
}

/// Each process with its gRPC service, if it has one.
const PROCESSES: [(&str, Option<&str>); 5] = [
    ("coordinator", Some("tandem.coordinator.v1.Coordinator")),
    ("learner-0", Some("tandem.learner.v1.Learner")),
    ("weak-server-0", Some("tandem.weak.v1.Weak")),
    ("actor-0", None),
    ("actor-1", None),
];

/// Service and path of every RPC in every `.proto` file.
pub(crate) fn rpcs() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "proto")).collect();
    let set = protox::compile(files, [dir]).unwrap();
    let mut found = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            let methods = service.method.iter().map(|method| method.name());
            let path = |method| format!("/{service_name}/{method}");
            found.extend(methods.map(|method| (service_name.clone(), path(method))));
        }
    }
    found
}

/// Where a service of a run is reached.
pub(crate) fn address_of(run: &Run, service: &str) -> String {
    let found = PROCESSES.iter().find(|(_, serves)| *serves == Some(service));
    let (process, _) = found.unwrap_or_else(|| panic!("say who serves {service}"));
    wait_until("an address in the log", LIMIT, || log_field(&run.log(process), "address"))
}

fn guard(security: &Security) -> Guard {
    Guard::open(&Settings { security: security.clone(), ..Settings::default() }).unwrap()
}

/// Calls with an empty message, which is one of every type.
async fn call(address: &str, path: &str, security: &Security) -> (Answer, String) {
    let settings = ChannelSettings {
        connect_timeout: Duration::from_secs(10),
        ..ChannelSettings::new(&guard(security))
    };
    let line = match proto::connect(address, &settings).await {
        Ok(line) => line,
        Err(error) => return (Answer::NoConnection, format!("{error:?}")),
    };
    let mut client = tonic::client::Grpc::new(line);
    client.ready().await.unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answered = client.unary(Request::new(()), path.clone(), codec);
    let status = match tokio::time::timeout(LIMIT, answered).await.expect("an answer") {
        Ok(_) => return (Answer::Served, String::new()),
        Err(status) => status,
    };
    let text = format!("{status:?}");
    assert_ne!(status.code(), Code::Unimplemented, "{path}: {text}");
    let answer = match status.code() {
        Code::Unauthenticated => Answer::Unauthenticated,
        // tonic's words for a connection that broke under the call; what a peer says has no source.
        _ if std::error::Error::source(&status).is_some() => Answer::NoConnection,
        _ => Answer::Served,
    };
    (answer, text)
}

fn pem(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Asks an admin port.
fn ask(address: &str, path: &str, security: &Security) -> (Answer, String) {
    let encrypted = !security.authority.is_empty();
    let mut tls = TlsConfig::builder();
    if encrypted {
        let root = Certificate::from_pem(&pem(&security.authority)).unwrap().to_owned();
        tls = tls.root_certs(RootCerts::new_with_certs(&[root]));
    }
    if !security.certificate.is_empty() {
        let chain = [Certificate::from_pem(&pem(&security.certificate)).unwrap().to_owned()];
        let key = PrivateKey::from_pem(&pem(&security.key)).unwrap();
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(LIMIT))
        .http_status_as_error(false)
        .tls_config(tls.build())
        .build()
        .new_agent();
    let scheme = if encrypted { "https" } else { "http" };
    let mut request = agent.get(format!("{scheme}://{address}{path}"));
    if let Some(bearer) = guard(security).bearer() {
        request = request.header("authorization", bearer);
    }
    match request.call() {
        Err(error) => (Answer::NoConnection, error.to_string()),
        Ok(answer) if answer.status() == 401 => (Answer::Unauthenticated, String::new()),
        Ok(answer) => (Answer::Served, answer.status().to_string()),
    }
}

/// What a stranger may try, and what must come of it.
fn attempts(authority: &TestAuthority, good: &Security) -> Vec<(&'static str, Security, Answer)> {
    let without = |change: fn(&mut Security)| {
        let mut security = good.clone();
        change(&mut security);
        security
    };
    let wrong = authority.token("wrong-token", WRONG);
    let expired = authority.expired("expired");
    let stranger = TestAuthority::new(&Path::new(&good.token_file).with_file_name("stranger"));
    let stranger = stranger.good("stranger");
    let shows = |files: &tests::Files| Security {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        ..good.clone()
    };
    let no_certificate = without(|s| {
        s.certificate.clear();
        s.key.clear();
        s.client_certificates = false;
    });
    vec![
        ("all that is asked for", good.clone(), Answer::Served),
        ("no token", without(|s| s.token_file.clear()), Answer::Unauthenticated),
        ("a wrong token", Security { token_file: wrong, ..good.clone() }, Answer::Unauthenticated),
        ("no client certificate", no_certificate, Answer::NoConnection),
        ("an expired certificate", shows(&expired), Answer::NoConnection),
        ("a certificate of another authority", shows(&stranger), Answer::NoConnection),
        (
            "plaintext",
            Security { token_file: good.token_file.clone(), ..Security::default() },
            Answer::NoConnection,
        ),
    ]
}

fn flags(security: &Security) -> Vec<String> {
    let pairs = [
        ("token_file", security.token_file.clone()),
        ("certificate", security.certificate.clone()),
        ("key", security.key.clone()),
        ("authority", security.authority.clone()),
        ("client_certificates", security.client_certificates.to_string()),
    ];
    pairs
        .iter()
        .flat_map(|(key, value)| ["--set".into(), format!("security.{key}={value}")])
        .collect()
}

fn protected(authority: &TestAuthority) -> Security {
    let own = authority.good("own");
    Security {
        token_file: authority.token("token", TOKEN),
        certificate: own.certificate,
        key: own.key,
        authority: authority.pem(),
        client_certificates: true,
        peer_name: String::new(),
    }
}

#[test]
fn row_20_no_rpc_and_no_admin_route_is_reached_without_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new(dir.path());
    let good = protected(&authority);
    let set = flags(&good);
    let mut args = small(&["--steps", "500", "--set", "eval.enabled=false"]);
    args.extend(set.iter().map(String::as_str));
    let run = Run::start(&args);
    run.wait_for_steps(1, LIMIT);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (rpcs, attempts) = (rpcs(), attempts(&authority, &good));
    assert!(rpcs.len() >= 11, "{rpcs:?}");
    let mut checked = 0;
    for (service, path) in &rpcs {
        let address = address_of(&run, service);
        for (what, security, expected) in &attempts {
            let (answer, text) = runtime.block_on(call(&address, path, security));
            assert_eq!(answer, *expected, "{path} with {what}: {text}");
            checked += 1;
        }
    }
    for (process, _) in PROCESSES {
        let address = wait_until("an admin address", LIMIT, || admin_address(&run.log(process)));
        let own = (process == "coordinator").then_some(coordinator::discovery::PATH);
        for path in AdminServer::paths().chain(own).chain(["/nothing"]) {
            for (what, security, expected) in &attempts {
                let (answer, text) = ask(&address, path, security);
                assert_eq!(answer, *expected, "{process}{path} with {what}: {text}");
                checked += 1;
            }
        }
    }
    println!("{checked} attempts on {} RPCs and {} admin ports", rpcs.len(), PROCESSES.len());
    // Nobody was disturbed.
    run.wait_for_steps(run.steps() + 1, LIMIT);
}

#[test]
fn row_20_a_server_with_an_expired_certificate_is_not_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new(dir.path());
    let good = protected(&authority);
    let old = authority.expired("old");
    let expired = Security { certificate: old.certificate, key: old.key, ..good.clone() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connected = |server: &Security, client: &Security| {
        runtime.block_on(async {
            let guard = guard(server);
            let listener = Listener::bind("127.0.0.1:0", "listen", Protocol::Grpc, &guard);
            let listener = listener.await.unwrap();
            let (address, mut incoming) = (listener.address().to_string(), listener.incoming());
            let settings = ChannelSettings::new(&self::guard(client));
            tokio::select! {
                line = proto::connect(&address, &settings) => line.map(drop),
                _ = async { loop { let _held = incoming.next().await; } } => unreachable!(),
            }
        })
    };
    let own = Security { client_certificates: false, ..good.clone() };
    let refused = connected(&Security { client_certificates: false, ..expired }, &own);
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("no encrypted connection to 127.0.0.1:"), "{text}");
    assert!(text.contains("certificate expired"), "{text}");
    let elsewhere = Security { peer_name: "another.host".to_owned(), ..own.clone() };
    let text = connected(&own, &elsewhere).unwrap_err().to_string();
    assert!(text.contains("not valid for name \"another.host\""), "{text}");
    assert!(connected(&own, &own).is_ok());
}

#[test]
fn a_run_on_made_credentials_trains_and_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (made, file) = (dir.path().join("made"), dir.path().join("run.toml"));
    let (_run, ended) = Run::to_end(&["credentials", made.to_str().unwrap()], LIMIT);
    ended.expect_code(0);
    drop(_run);
    std::fs::write(&file, format!("{}\nclient_certificates = true\n", ended.stdout)).unwrap();
    let file = file.to_str().unwrap();
    let (mut run, ended) = Run::to_end(&small(&["--config", file, "--steps", "2"]), LIMIT);
    ended.expect_code(0);
    assert_eq!(run.summary().number("steps"), 2.0);
    let evaluated = run.then(&["eval", "{dir}", "--limit", "4"], LIMIT);
    evaluated.expect_code(0);
    let shown = run.then(&["config", "show", "--config", file], LIMIT);
    assert!(shown.stdout.contains("token_file = "), "{}", shown.stdout);

    let token = std::fs::read_to_string(made.join("token")).unwrap();
    let key = std::fs::read_to_string(made.join("key.pem")).unwrap();
    let key = key.lines().nth(1).unwrap();
    let mut texts = vec![ended.stdout, ended.stderr, evaluated.stderr, shown.stdout];
    let config = std::fs::read_to_string(run.dir().join("config.toml")).unwrap();
    texts.extend(run.logs().iter().map(|process| run.log(process)).chain([config]));
    assert!(texts.len() > 9, "five logs of each command, and the rest");
    for text in texts {
        assert!(!text.contains(&token) && !text.contains(key), "a secret in:\n{text}");
    }
}
