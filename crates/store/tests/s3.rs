//! The store over HTTP against a server that speaks S3 (moto), which is started by the Python of
//! `TANDEM_TEST_PYTHON`. Each case is a process of its own: credentials come from its environment.
#![cfg(feature = "cloud")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use settings::{Checkpoint, Store as StoreSettings};
use store::{BLANK_HASH, STATE, Shelf, Store, run_name, sealed_hash};
use tests::{say_skipped, wait_until};
use types::Hash;

const LIMIT: Duration = Duration::from_secs(60);
const RUN: u64 = 7;
/// What a case is told.
const BUCKET: &str = "TANDEM_TEST_BUCKET";
/// Three parts.
const LARGE: usize = (12 << 20) + 1;

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Option<Self> {
        let Some(python) = std::env::var_os("TANDEM_TEST_PYTHON") else {
            say_skipped(
                "the store over S3",
                "set TANDEM_TEST_PYTHON to a Python with moto[server]",
            );
            return None;
        };
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = address.expect("a port is free");
        let mut child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the S3 server", LIMIT, || {
            assert!(child.try_wait().unwrap().is_none(), "is moto[server] installed there?");
            TcpStream::connect(address).ok()
        });
        Some(Self { child, address })
    }

    /// What it answers to a request without a body.
    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Runs a case of this file with the server's address in its environment.
    fn case(&self, name: &str, bucket: &str) {
        let mut case = Command::new(std::env::current_exe().unwrap());
        let case = case.args(["--exact", name, "--ignored", "--nocapture"]).env(BUCKET, bucket);
        for (variable, value) in [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
        ] {
            case.env(variable, value);
        }
        let done = case.output().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && out.contains("1 passed"), "{name}:\n{out}\n{err}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn checkpoints_are_kept_in_s3() {
    let Some(server) = Server::start() else { return };
    assert!(server.ask("PUT", "/runs").starts_with("HTTP/1.1 200"));
    server.case("keeps_checkpoints", "runs");
    let list = server.ask("GET", "/runs?list-type=2");
    assert!(list.contains("team/a/run-0000000000000007/checkpoints/step-000004/state.json"));
    assert!(!list.contains("step-000002"), "{list}");
    server.case("names_what_is_missing", "absent");
}

#[test]
fn an_endpoint_that_nobody_serves_is_given_up() {
    let Some(mut server) = Server::start() else { return };
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    server.case("gives_up", "runs");
}

/// Of a bucket that the case was told, where it was told one.
fn shelf() -> Option<Shelf> {
    let settings = StoreSettings {
        url: format!("s3://{}/team/a", std::env::var(BUCKET).ok()?),
        timeout_ms: 5_000,
        retries_max: 1,
        part_bytes: 5 << 20,
    };
    let store = Store::open(&settings).unwrap().unwrap();
    Some(Shelf::new(store, run_name(RUN)))
}

fn checkpoint(root: &Path, step: u32) -> PathBuf {
    let dir = root.join(step.to_string());
    fs::create_dir(&dir).unwrap();
    let large: Vec<u8> = (0..LARGE).map(|n| (n / 7) as u8).collect();
    let mut hashes = serde_json::Map::new();
    for (name, bytes) in [("model.safetensors", &large[..]), ("config.json", b"{}")] {
        fs::write(dir.join(name), bytes).unwrap();
        hashes.insert(name.to_owned(), Hash::of(bytes).to_string().into());
    }
    let state = serde_json::json!({
        "run": run_name(RUN), "step": step, "hashes": hashes, "own_hash": BLANK_HASH,
    });
    let text = state.to_string();
    let hash = sealed_hash(&text, BLANK_HASH);
    fs::write(dir.join(STATE), text.replace(BLANK_HASH, &hash)).unwrap();
    dir
}

#[tokio::test]
#[ignore = "a case of its own process"]
async fn keeps_checkpoints() {
    let Some(shelf) = shelf() else { return };
    let root = tempfile::tempdir().unwrap();
    assert!(shelf.steps().await.unwrap().is_empty());
    for step in [2, 4] {
        let bytes = shelf.upload(&checkpoint(root.path(), step)).await.unwrap();
        assert!(bytes > LARGE as u64);
    }
    assert_eq!(shelf.steps().await.unwrap(), [2, 4].into());
    let to = root.path().join("fetched");
    shelf.download(4, &to, &Checkpoint::default()).await.unwrap();
    for name in ["model.safetensors", "config.json", STATE] {
        let (sent, came) = (root.path().join("4").join(name), to.join(name));
        assert_eq!(fs::read(sent).unwrap(), fs::read(came).unwrap(), "{name}");
    }
    shelf.delete(&[2]).await.unwrap();
    assert_eq!(shelf.steps().await.unwrap(), [4].into());
}

#[tokio::test]
#[ignore = "a case of its own process"]
async fn names_what_is_missing() {
    let Some(shelf) = shelf() else { return };
    let error = shelf.steps().await.unwrap_err().to_string();
    assert!(error.contains("s3://absent/team/a") && error.contains("bucket"), "{error}");
    let root = tempfile::tempdir().unwrap();
    let error = shelf.upload(&checkpoint(root.path(), 4)).await.unwrap_err().to_string();
    assert!(error.contains("s3://absent/team/a") && error.contains("bucket"), "{error}");
}

#[tokio::test]
#[ignore = "a case of its own process"]
async fn gives_up() {
    let Some(shelf) = shelf() else { return };
    let error = shelf.steps().await.unwrap_err().to_string();
    for part in ["listing run-", "s3://runs/team/a", "given up", "store.retries_max"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
