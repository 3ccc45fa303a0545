//! Certificates and tokens for tests: good ones, and some that must be refused.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority that signs what a test needs.
pub struct TestAuthority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: String,
    pub key: String,
}

impl TestAuthority {
    /// Its files go into `dir`.
    ///
    /// # Panics
    /// They cannot be written.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory for credentials");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("an authority").pem();
        let made = Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) };
        made.write("authority.pem", &pem);
        made
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.path("authority.pem")
    }

    /// Valid for this machine, today and for long.
    #[must_use]
    pub fn good(&self, name: &str) -> Files {
        self.sign(name, 2100)
    }

    /// The same, but of yesteryear.
    #[must_use]
    pub fn expired(&self, name: &str) -> Files {
        self.sign(name, 2001)
    }

    /// A token file.
    #[must_use]
    pub fn token(&self, name: &str, token: &str) -> String {
        self.write(name, token)
    }

    fn sign(&self, name: &str, until_year: i32) -> Files {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names).expect("names of this machine");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        Files {
            certificate: self.write(&format!("{name}.pem"), &signed.pem()),
            key: self.write(&format!("{name}-key.pem"), &key.serialize_pem()),
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file of credentials");
        path
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a temporary directory's name is UTF-8").to_owned()
    }
}
