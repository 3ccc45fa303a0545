//! `coordinator credentials`: makes what the programs of one run show to each other. What they do
//! with it is the business of `security`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use ring::rand::{SecureRandom, SystemRandom};
use toml::{Table, Value};

use crate::cli::CredentialsArgs;
use crate::output::say;
use crate::tiny::claim;

const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const TOKEN: &str = "token";

const FILES: [&str; 4] = [AUTHORITY, CERTIFICATE, KEY, TOKEN];

const GRAFANA_PASSWORD: &str = "grafana-password";
const GRAFANA_VARIABLE: &str = "GRAFANA_PASSWORD";

/// Random bytes of a token; twice as many hexadecimal digits.
const TOKEN_BYTES: usize = 32;
const _: () = assert!(2 * TOKEN_BYTES >= security::TOKEN_CHARS_MIN);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Other machines' clocks may be late by so much.
const CLOCKS_DIFFER: Duration = DAY;

/// Names that the processes of this machine are always reached by.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The files' contents.
struct Credentials {
    authority: String,
    certificate: String,
    key: String,
    token: String,
}

/// Returns the exit code; standard output gets the settings to use.
///
/// # Errors
/// A directory that holds something or cannot be written, a name that no certificate may have.
pub fn credentials(args: &CredentialsArgs) -> anyhow::Result<u8> {
    let dir = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
    if args.keep && FILES.iter().all(|name| dir.join(name).is_file()) {
        eprintln!("{} holds credentials already, they stay", args.dir.display());
        say(settings(&dir).to_string().trim_end());
        return Ok(0);
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let own = OWN_NAMES.into_iter().map(str::to_owned).chain(host);
    let mut names: Vec<String> = own.chain(args.names.iter().cloned()).collect();
    names.sort();
    names.dedup();
    let made = make(&names, SystemTime::now(), args.days)?;
    claim(&args.dir)?;
    write(&dir.join(AUTHORITY), &made.authority, 0o644)?;
    write(&dir.join(CERTIFICATE), &made.certificate, 0o644)?;
    write(&dir.join(KEY), &made.key, 0o600)?;
    if args.observers {
        let given = std::env::var(GRAFANA_VARIABLE).ok().filter(|given| !given.is_empty());
        let password = given.map_or_else(secret, Ok)?;
        write(&dir.join(GRAFANA_PASSWORD), &password, 0o640)?;
    }
    // The last: with it, all are there.
    write(&dir.join(TOKEN), &made.token, if args.observers { 0o640 } else { 0o600 })?;
    eprintln!(
        "valid for {} days, for {}; the authority's own key is not kept",
        args.days,
        names.join(", ")
    );
    eprintln!("put this into the settings of every process, with the files at these paths:");
    say(settings(&dir).to_string().trim_end());
    Ok(0)
}

/// One authority and one certificate that it signed, for both ends of connections. Nothing else
/// can be signed by it later: its key is dropped here.
fn make(names: &[String], now: SystemTime, days: u32) -> anyhow::Result<Credentials> {
    let valid = |params: &mut CertificateParams| {
        params.not_before = (now - CLOCKS_DIFFER).into();
        params.not_after = (now + DAY * days).into();
    };
    let mut authority = CertificateParams::default();
    authority.distinguished_name = named("tandem run authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid(&mut authority);
    let authority_key = KeyPair::generate().context("no key for the authority")?;
    let signed = authority.self_signed(&authority_key).context("no authority")?;
    let authority = Issuer::new(authority, authority_key);

    let mut own = CertificateParams::new(names)
        .with_context(|| format!("a certificate cannot have the names {}", names.join(", ")))?;
    own.distinguished_name = named("tandem run member");
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    own.use_authority_key_identifier_extension = true;
    valid(&mut own);
    let key = KeyPair::generate().context("no key for the certificate")?;
    let certificate = own.signed_by(&key, &authority).context("no certificate")?;

    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    Ok(Credentials { authority: signed.pem(), certificate, key, token: secret()? })
}

/// A random text that nobody guesses.
pub(crate) fn secret() -> anyhow::Result<String> {
    let mut random = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| anyhow::anyhow!("the system has no random numbers for a token"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The file has its mode from the moment that it exists.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn settings(dir: &Path) -> Table {
    let keys = [
        ("token_file", TOKEN),
        ("certificate", CERTIFICATE),
        ("key", KEY),
        ("authority", AUTHORITY),
    ];
    let path = |name: &str| Value::from(dir.join(name).to_string_lossy().into_owned());
    let section: Table = keys.iter().map(|(key, name)| ((*key).to_owned(), path(name))).collect();
    Table::from_iter([("security".to_owned(), Value::Table(section))])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use security::{Guard, Listener, Protocol};
    use settings::Settings;

    use super::*;

    fn args(dir: PathBuf, names: &[&str]) -> CredentialsArgs {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        CredentialsArgs { dir, keep: false, observers: false, names, days: 7 }
    }

    #[tokio::test]
    async fn what_is_made_protects_a_port_and_only_its_owner_reads_the_secrets() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("new");
        assert_eq!(credentials(&args(dir.clone(), &["learner", "10.0.0.7"])).unwrap(), 0);
        let mode =
            |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(TOKEN), mode(KEY)], [0o600; 2]);
        assert_eq!(std::fs::read(dir.join(TOKEN)).unwrap().len(), 64);
        let text = super::settings(&dir).to_string();
        let read: Settings = toml::from_str(&text).unwrap();
        let guard = Guard::open(&read).unwrap();
        let listen = "coordinator.listen";
        assert!(Listener::bind("0.0.0.0:0", listen, Protocol::Grpc, &guard).await.is_ok());
        let again = credentials(&args(dir.clone(), &[])).unwrap_err();
        assert!(again.to_string().contains("is not empty"), "{again}");
        let files = || FILES.map(|name| std::fs::read(dir.join(name)).unwrap());
        let before = files();
        let keep = CredentialsArgs { keep: true, ..args(dir.clone(), &[]) };
        assert_eq!(credentials(&keep).unwrap(), 0);
        assert_eq!(files(), before, "they stay");
        std::fs::remove_file(dir.join(KEY)).unwrap();
        let partial = credentials(&keep).unwrap_err();
        assert!(partial.to_string().contains("is not empty"), "{partial}");
    }

    #[test]
    fn observers_read_the_token_and_a_password_but_never_the_key() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("new");
        let args = CredentialsArgs { observers: true, ..args(dir.clone(), &[]) };
        assert_eq!(credentials(&args).unwrap(), 0);
        let mode =
            |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(TOKEN), mode(GRAFANA_PASSWORD), mode(KEY)], [0o640, 0o640, 0o600]);
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read(GRAFANA_PASSWORD).len(), 64);
        assert_ne!(read(GRAFANA_PASSWORD), read(TOKEN));
    }

    #[test]
    fn no_two_tokens_and_keys_are_the_same_and_bad_names_are_refused() {
        let made = || make(&["localhost".to_owned()], SystemTime::now(), 1).unwrap();
        let (one, other) = (made(), made());
        assert_ne!(one.token, other.token);
        assert_ne!(one.key, other.key);
        let bad = make(&["gr\u{fc}n".to_owned()], SystemTime::now(), 1).err().unwrap();
        assert!(format!("{bad:#}").contains("cannot have the names gr\u{fc}n"), "{bad:#}");
    }
}
