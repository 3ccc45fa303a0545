//! A real Prometheus beside a run, and its tool. Where Debian's package is missing, whoever asks is
//! told loudly.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::admin::{http_get, try_get};
use crate::skip::say_skipped;
use crate::wait_until;

const WAY_OUT: &str = "install the Debian package `prometheus`";

/// Until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server that scrapes a run every second. Dropping it kills it.
pub struct Prometheus {
    child: Child,
    address: String,
    _dir: TempDir,
}

impl Prometheus {
    /// With this configuration, but every second, and these rules as `rules.yml` beside it. Says
    /// loudly that a test is skipped where Prometheus is not installed.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(test: &str, configuration: &str, rules: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str| dir.path().join(name);
        fs::write(file("rules.yml"), rules).expect("a file in it");
        let often = configuration.replace("interval: 5s", "interval: 1s");
        fs::write(file("prometheus.yml"), often).expect("a file in it");
        let log = fs::File::create(file("log")).expect("a file in it");
        let address = free_address();
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", file("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", file("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(child) = started else {
            say_skipped(test, WAY_OUT);
            return None;
        };
        let started = Self { child, address, _dir: dir };
        wait_until("Prometheus", START_LIMIT, || {
            let answer = try_get(&started.address, "/-/ready").ok();
            answer.filter(|(status, _)| *status == 200)
        });
        Some(started)
    }

    /// The value of each series of an expression at this moment.
    ///
    /// # Errors
    /// What is wrong with the expression.
    ///
    /// # Panics
    /// It does not answer.
    pub fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let of_series = |series: &Value| series["value"][1].as_str()?.parse().ok();
        let series = data["result"].as_array().ok_or("no list of series")?;
        series.iter().map(|one| of_series(one).ok_or(format!("no number: {one}"))).collect()
    }

    /// The values of a label, over the series of a selector.
    ///
    /// # Errors
    /// What is wrong with the selector.
    ///
    /// # Panics
    /// It does not answer.
    pub fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>, String> {
        let path = format!("/api/v1/label/{label}/values?match[]={}", encoded(selector));
        let data = self.ask(&path)?;
        let values = data.as_array().ok_or("no list of values")?.iter();
        Ok(values.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Rules that could not be evaluated, with what it says of them.
    ///
    /// # Errors
    /// It refuses.
    ///
    /// # Panics
    /// It does not answer.
    pub fn broken_rules(&self) -> Result<Vec<String>, String> {
        let data = self.ask("/api/v1/rules")?;
        let groups = data["groups"].as_array().ok_or("no list of groups")?.iter();
        let rules = groups.filter_map(|group| group["rules"].as_array()).flatten();
        let broken = rules.filter(|rule| rule["health"] != "ok" && rule["health"] != "unknown");
        Ok(broken.map(|rule| format!("{}: {}", rule["name"], rule["lastError"])).collect())
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let (_, text) = http_get(&self.address, path);
        let mut answer: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        match answer["status"] == "success" {
            true => Ok(answer["data"].take()),
            false => Err(answer["error"].to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let of_byte = |byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(of_byte).collect()
}

/// What `promtool check metrics` says: `Ok` with nothing to complain of. Says loudly that it is
/// skipped where promtool is not installed.
///
/// # Errors
/// Its complaints.
///
/// # Panics
/// It cannot be talked to.
pub fn promtool(metrics: &str) -> Result<(), String> {
    let Some(output) = run_promtool(&["check", "metrics"], metrics) else { return Ok(()) };
    let text = said(&output);
    if output.status.success() && text.trim().is_empty() { Ok(()) } else { Err(text) }
}

/// Whether promtool ends well with these arguments; what it says then is no complaint. Says loudly
/// that it is skipped where promtool is not installed.
///
/// # Errors
/// All that it said.
///
/// # Panics
/// It cannot be talked to.
pub fn promtool_accepts(args: &[&str]) -> Result<(), String> {
    let Some(output) = run_promtool(args, "") else { return Ok(()) };
    if output.status.success() { Ok(()) } else { Err(said(&output)) }
}

fn run_promtool(args: &[&str], input: &str) -> Option<Output> {
    let started = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        say_skipped(&format!("promtool {}", args.join(" ")), WAY_OUT);
        return None;
    };
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    Some(child.wait_with_output().expect("its output"))
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}
