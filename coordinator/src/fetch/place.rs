//! Where the hub and its cache are, by the variables that Hugging Face's own tools read. Nothing
//! is fetched here.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use super::error::FetchError;

const ENDPOINT: &str = "https://huggingface.co";

/// Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl Token {
    /// The value of an `Authorization` header.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a download needs to know of this machine.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Without a slash at the end.
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    /// Holds `models--OWNER--NAME` and so on.
    pub(super) cache: PathBuf,
    /// Certificates (PEM) trusted instead of the built-in roots.
    pub(super) roots: Option<PathBuf>,
}

impl Place {
    /// By `HF_ENDPOINT`, `HF_TOKEN` (or the file that `hf auth login` writes), `HF_HUB_CACHE`,
    /// `HF_HOME`, `XDG_CACHE_HOME` and `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// An endpoint that is no address, or no home to put the cache in.
    pub(super) fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self, FetchError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if host.is_none_or(str::is_empty) {
            let hint = format!("write an address like {ENDPOINT}, or leave it out");
            return Err(FetchError::Environment { variable: "HF_ENDPOINT", value: endpoint, hint });
        }
        let under_home = || {
            let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
            let caches = caches.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
            Some(caches.join("huggingface"))
        };
        let home = set("HF_HOME").map(PathBuf::from).or_else(under_home);
        let cache = set("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| FetchError::Environment {
            variable: "HF_HOME",
            value: String::new(),
            hint: "neither it nor HOME names a directory for the cache, set it".to_owned(),
        })?;
        let file = set("HF_TOKEN_PATH").map(PathBuf::from);
        let file = file.or_else(|| Some(home?.join("token")));
        let stored = || fs::read_to_string(file.as_ref()?).ok();
        let token = set("HF_TOKEN").or_else(stored).map(|text| text.trim().to_owned());
        let token = token.filter(|text| !text.is_empty()).map(Token);
        Ok(Self { endpoint, token, cache, roots: set("SSL_CERT_FILE").map(PathBuf::from) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Place, FetchError> {
        let of = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Place::new(|name| of(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_variables_of_the_field_hold() {
        let found = place(&[("HOME", "/h")]).unwrap();
        assert_eq!(found.endpoint, "https://huggingface.co");
        assert_eq!((found.cache, found.token), ("/h/.cache/huggingface/hub".into(), None));
        let mirror = ("HF_ENDPOINT", "http://mirror:80/hf/");
        let found = place(&[("HOME", "/h"), ("HF_HOME", "/data/hf"), mirror]).unwrap();
        assert_eq!((&*found.endpoint, found.cache), ("http://mirror:80/hf", "/data/hf/hub".into()));
        let found = place(&[("HF_HUB_CACHE", "/c"), ("HF_TOKEN", " hf_x\n")]).unwrap();
        assert_eq!(
            (found.cache, found.token.unwrap().bearer()),
            ("/c".into(), "Bearer hf_x".into())
        );
        let found = place(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]).unwrap();
        assert_eq!(found.cache, PathBuf::from("/x/huggingface/hub"));
    }

    #[test]
    fn a_token_comes_from_the_login_too_and_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_secret\n").unwrap();
        let found = place(&[("HF_HOME", home.path().to_str().unwrap())]).unwrap();
        assert_eq!(found.token.as_ref().unwrap().bearer(), "Bearer hf_secret");
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let text = place(&[("HOME", "/h"), ("HF_ENDPOINT", "mirror")]).unwrap_err().to_string();
        assert!(text.contains("HF_ENDPOINT is `mirror`: write an address like"), "{text}");
        let text = place(&[]).unwrap_err().to_string();
        assert!(text.contains("HF_HOME"), "{text}");
    }
}
