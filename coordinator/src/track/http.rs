//! JSON over HTTP to one server, each request within its time. What is asked for is the caller's.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use settings::Settings;
use ureq::http::{Request, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::worker::SinkError;

const AGENT: &str = concat!("tandem/", env!("CARGO_PKG_VERSION"));
/// Of an answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Of what a server says of an error.
const FAULT_CHARS_MAX: usize = 300;

/// What has to hold before anything is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(
        "MLFLOW_TRACKING_TOKEN would travel in plaintext to {0}: write https in track.mlflow, or \
         unset the variable"
    )]
    Plaintext(String),
    #[error("cannot read the certificates {path} that SSL_CERT_FILE names: {cause}")]
    Roots { path: PathBuf, cause: std::io::Error },
}

/// One server. It has no `Debug`: it holds the token.
pub(super) struct Server {
    agent: Agent,
    /// Without a slash at its end.
    base: String,
    authorization: Option<String>,
}

/// An answer that is none of success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// MLflow's name of it.
    pub(super) code: String,
    text: String,
}

/// Success, or the server's word against it.
pub(super) type Answer = Result<Value, Refusal>;

impl Refusal {
    /// The error that it is where it was not expected.
    pub(super) fn error(self) -> SinkError {
        let passing = self.status == 429 || self.status >= 500;
        if passing { SinkError::Passing(self.text) } else { SinkError::Lasting(self.text) }
    }
}

impl Server {
    /// # Errors
    /// A token that would travel in plaintext, or certificates that cannot be read.
    pub(super) fn new(
        settings: &Settings,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        let set = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let base = settings.track.mlflow.trim_end_matches('/').to_owned();
        let token = set("MLFLOW_TRACKING_TOKEN");
        if token.is_some() && !base.starts_with("https://") && !is_loopback(&base) {
            return Err(HttpError::Plaintext(base));
        }
        let limit = Duration::from_millis(u64::from(settings.track.request_timeout_ms));
        let mut config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(AGENT)
            .timeout_global(Some(limit));
        if let Some(path) = set("SSL_CERT_FILE").map(PathBuf::from) {
            let pem = std::fs::read(&path);
            let pem = pem.map_err(|cause| HttpError::Roots { path, cause })?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let roots = RootCerts::from(certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let authorization = token.map(|token| format!("Bearer {}", token.trim()));
        Ok(Self { agent: config.build().into(), base, authorization })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// # Errors
    /// No answer within the time, or one that is no JSON.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, SinkError> {
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        let request = self.request("GET", &format!("{path}?{}", query.join("&")));
        let request = request.body(()).map_err(|e| SinkError::Lasting(e.to_string()))?;
        self.answer(self.agent.run(request))
    }

    /// # Errors
    /// No answer within the time, or one that is no JSON.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, SinkError> {
        let request = self.request("POST", path).header("content-type", "application/json");
        let request = request.body(body.to_string());
        let request = request.map_err(|e| SinkError::Lasting(e.to_string()))?;
        self.answer(self.agent.run(request))
    }

    fn request(&self, method: &str, path: &str) -> ureq::http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.authorization {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    fn answer(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Answer, SinkError> {
        let passing = |error: ureq::Error| SinkError::Passing(format!("{}: {error}", self.base));
        let response = sent.map_err(passing)?;
        let status = response.status().as_u16();
        let body = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX);
        let bytes = body.read_to_vec().map_err(passing)?;
        let content = serde_json::from_slice::<Value>(&bytes).ok();
        if status == 200 {
            let what = "answered with something else than JSON: is it an MLflow server?";
            let content =
                content.ok_or_else(|| SinkError::Lasting(format!("{} {what}", self.base)));
            return content.map(Ok);
        }
        let field = |name: &str| {
            let found = content.as_ref().and_then(|content| content[name].as_str());
            found.unwrap_or_default().chars().take(FAULT_CHARS_MAX).collect::<String>()
        };
        let (code, message) = (field("error_code"), field("message"));
        let text =
            format!("{} answered {status} {code} {message}", self.base).trim_end().to_owned();
        Ok(Err(Refusal { status, code, text }))
    }
}

/// Whether an address is of this machine.
fn is_loopback(base: &str) -> bool {
    let uri = base.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// For the value of a query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
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

    fn server(address: &str, token: Option<&str>) -> Result<Server, HttpError> {
        let mut settings = Settings::default();
        settings.track.mlflow = address.to_owned();
        let token = token.map(str::to_owned);
        Server::new(&settings, |name| token.clone().filter(|_| name == "MLFLOW_TRACKING_TOKEN"))
    }

    #[test]
    fn a_token_travels_encrypted_or_not_at_all() {
        for sound in [
            "https://mlflow.example",
            "http://127.0.0.1:5000/",
            "http://[::1]:1",
            "http://localhost",
        ] {
            let bearer = server(sound, Some(" secret\n")).ok().unwrap().authorization;
            assert_eq!(bearer.as_deref(), Some("Bearer secret"), "{sound}");
        }
        for open in ["http://mlflow.example", "http://localhost.evil", "http://10.0.0.1:5000"] {
            let error = server(open, Some("secret")).err().unwrap().to_string();
            assert!(error.contains(open) && !error.contains("secret"), "{error}");
            assert!(server(open, None).is_ok() && server(open, Some("  ")).is_ok(), "{open}");
        }
        assert_eq!(escaped("a b&c=ü/"), "a%20b%26c%3D%C3%BC%2F");
    }
}
