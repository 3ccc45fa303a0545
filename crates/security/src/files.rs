//! Reading the files that `security.*` names: all their faults together, and a warning about those
//! that too many may read. What the contents are used for is `guard`'s.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use settings::Security;

use crate::token::Token;

/// A longer file is no credential.
const FILE_BYTES_MAX: u64 = 1 << 20;

const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const OTHERS_READ: u32 = 0o004;

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub struct CredentialError(pub(crate) Vec<String>);

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials have {} fault(s):", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
    }
}

/// What the files hold.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) token: Option<Token>,
    pub(crate) identity: Option<Identity>,
    pub(crate) authority: Option<Authority>,
}

/// A certificate with its chain, and its key, as PEM and as DER.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) chain_pem: Vec<u8>,
    pub(crate) key_pem: Vec<u8>,
}

pub(crate) struct Authority {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) pem: Vec<u8>,
}

impl Files {
    /// # Errors
    /// Every file that is missing, unfit, or that others may write.
    pub(crate) fn read(security: &Security) -> Result<Self, CredentialError> {
        let mut reader = Reader::default();
        let token = reader.token(&security.token_file);
        let chain = reader.certificates("security.certificate", &security.certificate);
        let key = reader.key(&security.key);
        let authority = reader.certificates("security.authority", &security.authority);
        if !reader.faults.is_empty() {
            return Err(CredentialError(reader.faults));
        }
        let identity = chain.zip(key).map(|((chain, chain_pem), (key, key_pem))| Identity {
            chain,
            key,
            chain_pem,
            key_pem,
        });
        let authority = authority.map(|(certificates, pem)| Authority { certificates, pem });
        Ok(Self { token, identity, authority })
    }
}

#[derive(Default)]
struct Reader {
    faults: Vec<String>,
}

type Certificates = (Vec<CertificateDer<'static>>, Vec<u8>);

impl Reader {
    fn token(&mut self, path: &str) -> Option<Token> {
        let bytes = self.secret("security.token_file", path)?;
        let token = String::from_utf8(bytes)
            .map_err(|_| "is no text".to_owned())
            .and_then(|text| Token::parse(&text));
        self.kept("security.token_file", path, token)
    }

    fn certificates(&mut self, key: &str, path: &str) -> Option<Certificates> {
        let pem = self.bytes(key, path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = match certificates {
            Ok(found) if !found.is_empty() => Ok((found, pem)),
            Ok(_) => Err("holds no certificate in PEM".to_owned()),
            Err(error) => Err(format!("holds no certificates in PEM: {error}")),
        };
        self.kept(key, path, certificates)
    }

    fn key(&mut self, path: &str) -> Option<(PrivateKeyDer<'static>, Vec<u8>)> {
        let pem = self.secret("security.key", path)?;
        let key = PrivateKeyDer::from_pem_slice(&pem);
        // The error is not passed on: it might show a part of the file.
        let key = key.map(|key| (key, pem)).map_err(|_| "holds no private key in PEM".to_owned());
        self.kept("security.key", path, key)
    }

    /// Secrets that are mounted into containers are often readable by all in there; nobody but
    /// their owner may ever write them.
    fn secret(&mut self, key: &str, path: &str) -> Option<Vec<u8>> {
        let bytes = self.bytes(key, path)?;
        let mode = std::fs::metadata(path).map(|file| file.permissions().mode()).unwrap_or(0);
        if mode & GROUP_OR_OTHERS_WRITE != 0 {
            let fault = "may be written by others than its owner: `chmod go-w` it".to_owned();
            return self.kept(key, path, Err(fault));
        }
        if mode & OTHERS_READ != 0 {
            tracing::warn!(key, path, "every user of this machine can read it: `chmod go-r` it");
        }
        Some(bytes)
    }

    /// None for an empty path, which asks for nothing.
    fn bytes(&mut self, key: &str, path: &str) -> Option<Vec<u8>> {
        if path.is_empty() {
            return None;
        }
        let read = read(Path::new(path)).map_err(|error| format!("cannot be read: {error}"));
        let bounded = read.and_then(|bytes| match bytes.len() as u64 > FILE_BYTES_MAX {
            true => Err(format!("has more than {FILE_BYTES_MAX} bytes")),
            false => Ok(bytes),
        });
        self.kept(key, path, bounded)
    }

    fn kept<T>(&mut self, key: &str, path: &str, found: Result<T, String>) -> Option<T> {
        found.map_err(|fault| self.faults.push(format!("{key} is {path}, which {fault}"))).ok()
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
