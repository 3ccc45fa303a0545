//! A hub on this machine: it answers as the real one does, redirects to a second address as to its
//! content network, and does wrong what a test asks for. It tests nothing itself.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "5a1b2c3d4e5f60718293a4b5c6d7e8f901234567";

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: String,
    /// Whether it came to the content network's address.
    pub cdn: bool,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// What goes wrong, by the end of the path.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The body ends after so many bytes, so often.
    Cut { bytes: usize, times: u32 },
    /// This status, with this `X-Error-Code`, so often.
    Status { status: u16, code: &'static str, times: u32 },
    /// Ranges are not understood: the answer is the whole file.
    NoRange,
    /// The bytes are others than the hash says.
    Damaged,
    /// A redirect within the hub, as for a repository that got another name.
    Moved(String),
    /// No answer at all.
    Silent,
}

/// Files by name, by the repository's key.
type Repositories = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

#[derive(Default)]
struct State {
    repositories: Repositories,
    faults: Vec<(String, Fault)>,
    seen: Vec<Seen>,
    silenced: Vec<TcpStream>,
}

/// Runs until the test process ends.
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    pub endpoint: String,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (hub, cdn) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let cdn_address = format!("http://{}", cdn.local_addr().unwrap());
        for (listener, cdn) in [(hub, false), (cdn, true)] {
            let (state, cdn_address) = (Arc::clone(&state), cdn_address.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, cdn_address) = (Arc::clone(&state), cdn_address.clone());
                    std::thread::spawn(move || answer(stream, cdn, &cdn_address, &state));
                }
            });
        }
        Self { state, endpoint }
    }

    /// `key` is `models/OWNER/NAME` or `datasets/OWNER/NAME`.
    pub(crate) fn add(&self, key: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        self.lock().repositories.insert(key.to_owned(), files.collect());
    }

    pub(crate) fn fault(&self, path_end: &str, fault: Fault) {
        self.lock().faults.push((path_end.to_owned(), fault));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.seen.clear();
        state.faults.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Safetensors and the like lie in the content network, other files in the repository itself.
fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".parquet"].iter().any(|end| name.ends_with(end))
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        return hex(Sha256::digest(bytes));
    }
    hex(Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

/// How an answer's bytes are not what they should be.
#[derive(Default)]
struct Wrongs {
    damaged: bool,
    no_range: bool,
    cut: Option<usize>,
}

/// What is sent.
struct Answer<'a> {
    status: u16,
    head: String,
    body: &'a [u8],
    cut: Option<usize>,
}

impl Answer<'_> {
    fn bare(status: u16, head: String) -> Self {
        Self { status, head, body: b"", cut: None }
    }

    fn fault(status: u16, code: &str) -> Self {
        Self::bare(status, format!("X-Error-Code: {code}\r\n"))
    }
}

fn answer(stream: TcpStream, cdn: bool, cdn_address: &str, state: &Mutex<State>) {
    let Some(seen) = read(&stream, cdn) else { return };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.seen.push(seen.clone());
    let is_silent = |(end, fault): &(String, Fault)| {
        matches!(fault, Fault::Silent) && seen.path.ends_with(end.as_str())
    };
    if state.faults.iter().any(is_silent) {
        state.silenced.push(stream);
        return;
    }
    match wrongs(&mut state.faults, &seen) {
        Ok(wrongs) => right(&stream, &seen, (&state.repositories, cdn_address), &wrongs),
        Err(answer) => send(&stream, &seen, &answer),
    }
}

/// What goes wrong with this request: an answer of its own, or something about the right one.
fn wrongs(faults: &mut [(String, Fault)], seen: &Seen) -> Result<Wrongs, Answer<'static>> {
    let mut wrongs = Wrongs::default();
    for (_, fault) in faults.iter_mut().filter(|(end, _)| seen.path.ends_with(end.as_str())) {
        match fault {
            Fault::Status { status, code, times } if *times > 0 => {
                *times -= 1;
                return Err(Answer::fault(*status, code));
            }
            Fault::Cut { bytes, times } if seen.cdn && seen.method == "GET" && *times > 0 => {
                *times -= 1;
                wrongs.cut = Some(*bytes);
            }
            Fault::NoRange => wrongs.no_range = true,
            Fault::Damaged => wrongs.damaged = true,
            Fault::Moved(to) => return Err(Answer::bare(307, format!("Location: {to}\r\n"))),
            Fault::Status { .. } | Fault::Cut { .. } | Fault::Silent => {}
        }
    }
    Ok(wrongs)
}

fn right(
    stream: &TcpStream,
    seen: &Seen,
    (repositories, cdn_address): (&Repositories, &str),
    wrongs: &Wrongs,
) {
    if let Some(key) = seen.path.strip_prefix("/api/") {
        let files = key.strip_suffix("/revision/main").and_then(|key| repositories.get(key));
        let Some(files) = files else {
            return send(stream, seen, &Answer::fault(404, "RepoNotFound"));
        };
        let siblings: Vec<_> =
            files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        let answer = Answer { body: info.as_bytes(), ..Answer::bare(200, String::new()) };
        return send(stream, seen, &answer);
    }
    let Some((name, bytes)) = find(repositories, &seen.path) else {
        return send(stream, seen, &Answer::fault(404, "EntryNotFound"));
    };
    let etag = etag(&name, bytes);
    if is_large(&name) && !seen.cdn {
        let head = format!(
            "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\n\
             Location: {cdn_address}{}?signature=s/{name}\r\n",
            bytes.len(),
            seen.path
        );
        return send(stream, seen, &Answer::bare(302, head));
    }
    let mut bytes = bytes.clone();
    if wrongs.damaged {
        bytes[0] ^= 1;
    }
    let range = seen.range.as_deref().filter(|_| !wrongs.no_range);
    let from =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let mut head = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{etag}\"\r\n");
    let (status, start) = from.map_or((200, 0), |from: usize| (206, from));
    if status == 206 {
        let (last, all) = (bytes.len() - 1, bytes.len());
        head.push_str(&format!("Content-Range: bytes {start}-{last}/{all}\r\n"));
    }
    send(stream, seen, &Answer { status, head, body: &bytes[start..], cut: wrongs.cut });
}

/// The file that a path like `/datasets/o/n/resolve/COMMIT/FILE` names.
fn find<'a>(repositories: &'a Repositories, path: &str) -> Option<(String, &'a Vec<u8>)> {
    let path = path.split('?').next().unwrap_or(path);
    let (repository, file) = path.split_once(&format!("/resolve/{COMMIT}/"))?;
    let repository = repository.trim_start_matches('/');
    let key = match repository.starts_with("datasets/") {
        true => repository.to_owned(),
        false => format!("models/{repository}"),
    };
    repositories.get(&key)?.get(file).map(|bytes| (file.to_owned(), bytes))
}

fn read(stream: &TcpStream, cdn: bool) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next()?;
    let mut parts = request.split(' ');
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let (mut range, mut authorization) = (None, None);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.to_owned()),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(Seen { method, cdn, path, range, authorization })
}

fn send(mut stream: &TcpStream, seen: &Seen, answer: &Answer<'_>) {
    let Answer { status, head, body, cut } = answer;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Status\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let body = if seen.method == "HEAD" { &[] } else { &body[..cut.unwrap_or(length)] };
    // A client that has gone away is its own affair.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
