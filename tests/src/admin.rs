//! The admin ports of a running run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The body of `GET path`, with its status code.
///
/// # Panics
/// Nobody answers.
#[must_use]
pub fn http_get(address: &str, path: &str) -> (u16, String) {
    try_get(address, path).unwrap_or_else(|e| panic!("{address}{path}: {e}"))
}

pub(crate) fn try_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let malformed = || std::io::Error::other("no HTTP response");
    let status = text.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok((status.ok_or_else(malformed)?, body))
}

/// What a process shows on `/metrics`; nothing if it does not answer.
#[must_use]
pub fn try_metrics(address: &str) -> Option<String> {
    try_get(address, "/metrics").ok().filter(|(code, _)| *code == 200).map(|(_, text)| text)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).expect("a chunk's length");
        if length == 0 {
            break;
        }
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

/// The admin address in a process's log.
#[must_use]
pub fn admin_address(log: &str) -> Option<String> {
    log_field(log, "admin")
}

/// The first value of a field in a log.
#[must_use]
pub fn log_field(log: &str, name: &str) -> Option<String> {
    let (_, rest) = log.split_once(&format!("{name}="))?;
    let address = rest.split(|c: char| c.is_whitespace() || c == '"').find(|s| !s.is_empty())?;
    Some(address.to_owned())
}

/// The last metrics of every process of a run, by name; scraped until the run ends.
pub struct Scraper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<BTreeMap<String, String>>,
}

impl Scraper {
    /// Scrapes the processes whose logs lie in `logs` twice a second.
    #[must_use]
    pub fn start(logs: PathBuf) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut last = BTreeMap::new();
            loop {
                scrape(&logs, &mut last);
                match stopped.recv_timeout(Duration::from_millis(500)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return last,
                }
            }
        });
        Self { stop, thread }
    }

    /// Metrics text by process name.
    ///
    /// # Panics
    /// The scraping thread did.
    #[must_use]
    pub fn finish(self) -> BTreeMap<String, String> {
        drop(self.stop);
        self.thread.join().expect("the scraper does not panic")
    }
}

fn scrape(logs: &Path, last: &mut BTreeMap<String, String>) {
    let files = std::fs::read_dir(logs).into_iter().flatten().flatten();
    for path in files.map(|file| file.path()) {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        if let (Some(address), Some(name)) = (admin_address(&log), name)
            && let Some(metrics) = try_metrics(&address)
        {
            last.insert(name, metrics);
        }
    }
}

/// All samples of one metric: label text and value.
#[must_use]
pub fn samples(metrics: &str, name: &str) -> Vec<(String, f64)> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, ""));
        (found == name).then(|| Some((labels.to_owned(), value.parse().ok()?)))?
    });
    parsed.collect()
}

/// The sum over all series of one metric.
///
/// # Panics
/// There is none.
#[must_use]
pub fn sample(metrics: &str, name: &str) -> f64 {
    let found = samples(metrics, name);
    assert!(!found.is_empty(), "no {name} in:\n{metrics}");
    found.iter().map(|(_, value)| value).sum()
}
