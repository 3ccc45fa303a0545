//! Requests to a hub, and what its answers mean. The token goes to the hub alone, never to where
//! the hub sends a download on to. Keeping what comes is `download`'s.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Method, Request, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::error::FetchError;
use super::place::Place;

const REDIRECTS_MAX: u32 = 10;
/// Of an answer that is read whole into memory.
const TEXT_BYTES_MAX: u64 = 64 << 20;
const AGENT: &str = concat!("tandem/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepositoryKind {
    Model,
    Dataset,
}

impl RepositoryKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// Before a repository's name in addresses of files.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Repository {
    pub(super) kind: RepositoryKind,
    /// `OWNER/NAME`.
    pub(super) name: String,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
}

/// A revision, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// What the hub says of a file before it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) url: String,
    pub(super) etag: String,
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

pub(super) struct Client {
    agent: Agent,
    place: Place,
}

impl Client {
    /// No connection, answer or piece of a body is waited for longer than `silence`.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub(super) fn new(place: Place, silence: Duration) -> Result<Self, FetchError> {
        let mut config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(AGENT)
            .timeout_resolve(Some(silence))
            .timeout_connect(Some(silence))
            .timeout_send_request(Some(silence))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence));
        if let Some(path) = &place.roots {
            let pem = std::fs::read(path)
                .map_err(|cause| FetchError::File { path: path.clone(), cause })?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let roots = RootCerts::from(certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().into(), place })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the hub answers, whatever it says.
    ///
    /// # Errors
    /// No answer.
    pub(super) fn greet(&self) -> Result<(), FetchError> {
        self.follow(&Method::HEAD, &self.place.endpoint, 0).map(drop)
    }

    /// The commit that a revision stands for, and its files.
    ///
    /// # Errors
    /// No such repository or revision, or one that this token may not read.
    pub(super) fn contents(&self, repository: &Repository) -> Result<Contents, FetchError> {
        let Repository { kind, name, revision } = repository;
        let (endpoint, kind) = (&self.place.endpoint, kind.name());
        let revision = escaped(revision).replace('/', "%2F");
        let url = format!("{endpoint}/api/{kind}s/{}/revision/{revision}", escaped(name));
        let (_, response) = self.follow(&Method::GET, &url, 0)?;
        self.accept(&response, repository, None)?;
        let text = self.read(response)?;
        let info: Info = serde_json::from_slice(&text).map_err(|_| FetchError::NoHub {
            host: host(&url),
            what: format!("the list of {name}'s files"),
            lacking: "a commit",
        })?;
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Contents { commit: info.sha, files })
    }

    /// # Errors
    /// A file that is not there or may not be read; an answer without etag or size.
    pub(super) fn describe(
        &self,
        repository: &Repository,
        commit: &str,
        file: &str,
    ) -> Result<Described, FetchError> {
        let (endpoint, prefix) = (&self.place.endpoint, repository.kind.prefix());
        let (name, path) = (escaped(&repository.name), escaped(file));
        let url = format!("{endpoint}/{prefix}{name}/resolve/{commit}/{path}");
        let (_, response) = self.follow(&Method::HEAD, &url, 0)?;
        if !is_described(&response) {
            self.accept(&response, repository, Some(file))?;
        }
        let lacking =
            |lacking| FetchError::NoHub { host: host(&url), what: file.to_owned(), lacking };
        let etag = header(&response, "x-linked-etag").or_else(|| header(&response, "etag"));
        let etag = etag.ok_or_else(|| lacking("an etag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        let bytes = header(&response, "x-linked-size");
        let bytes = bytes.or_else(|| header(&response, "content-length"));
        let bytes = bytes.and_then(|text| text.parse().ok()).ok_or_else(|| lacking("a size"))?;
        Ok(Described { url, etag, bytes })
    }

    /// The bytes from `from` on, or all of them: the first number says from where they are.
    ///
    /// # Errors
    /// An answer that holds no bytes.
    pub(super) fn open(
        &self,
        url: &str,
        from: u64,
    ) -> Result<(u64, impl Read + use<>), FetchError> {
        let (at, response) = self.follow(&Method::GET, url, from)?;
        let start = match response.status().as_u16() {
            200 => 0,
            206 => {
                let range = header(&response, "content-range").unwrap_or_default();
                let begins = range.strip_prefix("bytes ").and_then(|text| text.split('-').next());
                let begins = begins.and_then(|text| text.parse().ok()).filter(|at| *at <= from);
                let (host, what) = (host(&at), "a part of a file".to_owned());
                begins.ok_or(FetchError::NoHub { host, what, lacking: "a fitting range" })?
            }
            status => {
                let what = url.rsplit('/').next().unwrap_or(url).to_owned();
                return Err(FetchError::Status { host: host(&at), status, what });
            }
        };
        Ok((start, response.into_body().into_reader()))
    }

    /// A small file at any address, whole.
    ///
    /// # Errors
    /// Anything but its bytes.
    pub(super) fn bytes(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let (at, response) = self.follow(&Method::GET, url, 0)?;
        match response.status().as_u16() {
            200 => self.read(response),
            404 => Err(FetchError::NoAddress(url.to_owned())),
            status => Err(FetchError::Status { host: host(&at), status, what: url.to_owned() }),
        }
    }

    fn read(&self, response: Response<Body>) -> Result<Vec<u8>, FetchError> {
        let body = response.into_body().into_with_config().limit(TEXT_BYTES_MAX);
        body.read_to_vec().map_err(|error| unreachable(&self.place.endpoint, &error))
    }

    /// Along redirects to an answer, and its address; also to a redirect that describes the file
    /// where only the description is asked for.
    fn follow(
        &self,
        method: &Method,
        url: &str,
        from: u64,
    ) -> Result<(String, Response<Body>), FetchError> {
        let mut at = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder()
                .method(method)
                .uri(&at)
                // A packed body would be of another size than the file.
                .header("accept-encoding", "identity");
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let token = self.place.token.as_ref().filter(|_| self.is_hub(&at));
            if let Some(token) = token {
                request = request.header("authorization", token.bearer());
            }
            let request = request.body(()).map_err(|error| unreachable(&at, &error.into()))?;
            let response = self.agent.run(request).map_err(|error| unreachable(&at, &error))?;
            let described = *method == Method::HEAD && is_described(&response);
            if !response.status().is_redirection() || described {
                return Ok((at, response));
            }
            let location = header(&response, "location").unwrap_or_default();
            at = next(&at, location).ok_or_else(|| FetchError::NoHub {
                host: host(&at),
                what: "a redirect".to_owned(),
                lacking: "an address",
            })?;
        }
        let (host, reason) = (host(url), format!("more than {REDIRECTS_MAX} redirects"));
        Err(FetchError::Unreachable { host, reason })
    }

    fn is_hub(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.place.endpoint);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Any answer but the thing asked for, as an error.
    fn accept(
        &self,
        response: &Response<Body>,
        repository: &Repository,
        file: Option<&str>,
    ) -> Result<(), FetchError> {
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(());
        }
        let (repo, endpoint) = (repository.name.clone(), self.place.endpoint.clone());
        let whose = match self.place.token {
            Some(_) => "the token that was sent has no access to it",
            None => "no token was sent",
        };
        let code = header(response, "x-error-code").unwrap_or_default();
        Err(match (status, code, file) {
            (401 | 403, "GatedRepo", _) | (403, "", Some(_)) => {
                FetchError::Gated { repo, endpoint, whose }
            }
            (401 | 403, _, _) => FetchError::Hidden { repo, endpoint, status, whose },
            (404, "RevisionNotFound", _) => {
                FetchError::NoRevision { repo, revision: repository.revision.clone() }
            }
            (404, _, Some(file)) => {
                let there = "other files".to_owned();
                FetchError::NoFile { repo, file: file.to_owned(), there }
            }
            (404, _, None) => FetchError::NoRepository { repo, endpoint },
            _ => FetchError::Status { host: host(&endpoint), status, what: repo },
        })
    }
}

fn is_described(response: &Response<Body>) -> bool {
    header(response, "x-linked-etag").is_some()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn host(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::authority).map(ToString::to_string);
    host.unwrap_or_else(|| url.to_owned())
}

fn unreachable(url: &str, error: &ureq::Error) -> FetchError {
    FetchError::Unreachable { host: host(url), reason: error.to_string() }
}

/// Where a redirect leads from an address.
fn next(from: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return Some(location.to_owned());
    }
    let uri = from.parse::<Uri>().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    location.starts_with('/').then(|| format!("{scheme}://{authority}{location}"))
}

/// For the path of an address; slashes stay.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_on_from_where_they_were_found() {
        let from = "https://hub:1/o/n/resolve/main/a";
        assert_eq!(next(from, "/new/a?x=1").unwrap(), "https://hub:1/new/a?x=1");
        assert_eq!(next(from, "https://cdn/b").unwrap(), "https://cdn/b");
        assert_eq!((next(from, ""), next(from, "ftp://x/y")), (None, None));
        assert_eq!(escaped("o/a b?#%ü"), "o/a%20b%3F%23%25%C3%BC");
    }

    #[test]
    fn the_token_is_for_the_hub_alone() {
        let variable = |name: &str| match name {
            "HF_ENDPOINT" => Some("https://hub.example".to_owned()),
            "HF_HOME" => Some("/x".to_owned()),
            _ => None,
        };
        let place = Place::new(variable).unwrap();
        let client = Client::new(place, Duration::from_secs(1)).unwrap();
        assert!(client.is_hub("https://hub.example/o/n"));
        for other in ["https://hub.example.evil/o", "http://hub.example/o", "https://cdn/o"] {
            assert!(!client.is_hub(other), "{other}");
        }
    }
}
