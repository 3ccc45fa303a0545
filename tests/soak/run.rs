//! The run under test: a coordinator with all its processes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const ACTORS: &str = "4";
const LEARNERS: &str = "2";
const WEAK_SERVERS: &str = "2";
/// More than are ever taken.
const STEPS: &str = "1000000";
/// It ends within its grace.
const END_MAX: Duration = Duration::from_secs(60);
/// More than a line of `metrics.jsonl`.
const TAIL_BYTES: u64 = 1 << 16;

pub(crate) struct SoakRun {
    coordinator: Child,
    program: PathBuf,
    dir: PathBuf,
}

/// What is left when the run has been stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    pub(crate) steps: u64,
    /// Missing or repeated lines of `metrics.jsonl`.
    pub(crate) gaps: u64,
    pub(crate) exit_code: Option<i32>,
    /// Processes that outlived the coordinator.
    pub(crate) orphans: Vec<String>,
}

impl SoakRun {
    /// The programs lie one folder above this one.
    pub(crate) fn start(dir: PathBuf) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("where this program lies")?;
        let program = own.parent().and_then(Path::parent).context("no folder above")?;
        let program = program.join("coordinator");
        ensure!(program.is_file(), "{} is missing: build it first", program.display());
        let shown = dir.to_string_lossy().into_owned();
        let launch = ["launch", "--run-dir", &shown, "--steps", STEPS, "--actors", ACTORS];
        let counts = ["--learners", LEARNERS, "--weak-servers", WEAK_SERVERS];
        let set =
            ["eval.enabled=false", "coordinator.restarts_max=100", "train.learning_rate=1e-4"];
        let set = set.into_iter().flat_map(|pair| ["--set", pair]);
        let args: Vec<&str> = launch.into_iter().chain(counts).chain(set).collect();
        let log = dir.with_extension("log");
        let coordinator = spawn(&program, &args, &log)?;
        Ok(Self { coordinator, program, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// All processes but the coordinator.
    pub(crate) fn names(&self) -> Vec<String> {
        let of = |role: &str, count: &str| -> Vec<String> {
            let count: u32 = count.parse().unwrap_or_default();
            (0..count).map(|index| format!("{role}-{index}")).collect()
        };
        [of("actor", ACTORS), of("learner", LEARNERS), of("weak-server", WEAK_SERVERS)].concat()
    }

    /// Committed and not undone.
    pub(crate) fn steps(&self) -> u64 {
        last_step(&self.dir)
    }

    pub(crate) fn wait_for_steps(&mut self, steps: u64, limit: Duration) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        self.wait(&format!("step {steps}"), limit, || last_step(&dir) >= steps)
    }

    /// Every process answers on its admin port.
    pub(crate) fn wait_for_all(&mut self, limit: Duration) -> anyhow::Result<()> {
        let (dir, names) = (self.dir.clone(), self.names());
        self.wait("all processes", limit, || {
            let listed = processes(&dir);
            names.iter().all(|name| {
                let found = listed.iter().find(|process| process.name == *name);
                found.is_some_and(|process| tests::alive(process.pid))
            })
        })
    }

    fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !done() {
            if let Some(status) = self.coordinator.try_wait()? {
                bail!("the run ended ({status}) while {what} was waited for: {}", self.log());
            }
            ensure!(started.elapsed() < limit, "no {what} within {limit:?}: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.signal(name, Signal::SIGKILL)
    }

    pub(crate) fn stop_for(&self, name: &str, length: Duration) -> anyhow::Result<()> {
        self.signal(name, Signal::SIGSTOP)?;
        let until = Instant::now() + length;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        self.signal(name, Signal::SIGCONT)
    }

    fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let found = processes(&self.dir).into_iter().find(|process| process.name == name);
        let pid = found.with_context(|| format!("no process {name}"))?.pid;
        // It may be on its way out already.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        Ok(())
    }

    pub(crate) fn kill_coordinator_and_resume(&mut self) -> anyhow::Result<()> {
        let children = processes(&self.dir);
        self.coordinator.kill()?;
        self.coordinator.wait()?;
        let started = Instant::now();
        while children.iter().any(|process| tests::alive(process.pid)) {
            ensure!(started.elapsed() < END_MAX, "children outlive their coordinator");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let shown = self.dir.to_string_lossy().into_owned();
        let resume = ["launch", "--resume", "--run-dir", &shown];
        self.coordinator = spawn(&self.program, &resume, &self.dir.with_extension("log"))?;
        Ok(())
    }

    /// Stops the run in order and looks at what it leaves.
    pub(crate) fn end(mut self) -> anyhow::Result<End> {
        let listed = processes(&self.dir);
        let pid = Pid::from_raw(self.coordinator.id().cast_signed());
        kill(pid, Signal::SIGTERM)?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.coordinator.try_wait()? {
                break status;
            }
            ensure!(started.elapsed() < END_MAX, "it does not end within {END_MAX:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        };
        let orphans = listed.iter().filter(|process| tests::alive(process.pid));
        let orphans = orphans.map(|process| process.name.clone()).collect();
        let text = fs::read_to_string(self.dir.join("metrics.jsonl"))?;
        let steps: Vec<u64> = text.lines().filter_map(step_of).collect();
        let expected = 1..=steps.len() as u64;
        let gaps = steps.iter().zip(expected).filter(|(found, due)| **found != *due).count() as u64;
        Ok(End { steps: steps.len() as u64, gaps, exit_code: status.code(), orphans })
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for SoakRun {
    fn drop(&mut self) {
        let _ = self.coordinator.kill();
        let _ = self.coordinator.wait();
    }
}

/// A process of the run.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) admin: String,
}

/// As the coordinator lists them.
pub(crate) fn processes(dir: &Path) -> Vec<Process> {
    let text = fs::read_to_string(dir.join("processes.json")).unwrap_or_default();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let process = |entry: &Value| {
        Some(Process {
            name: entry["name"].as_str()?.to_owned(),
            pid: entry["pid"].as_u64()?.try_into().ok()?,
            admin: entry["admin"].as_str()?.to_owned(),
        })
    };
    list.iter().filter_map(process).collect()
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64()
}

/// Of the last whole line of `metrics.jsonl`; 0 where there is none.
fn last_step(dir: &Path) -> u64 {
    let tail = || -> std::io::Result<String> {
        let mut file = File::open(dir.join("metrics.jsonl"))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tail().unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().next_back().and_then(step_of).unwrap_or_default()
}

fn spawn(program: &Path, args: &[&str], log: &Path) -> anyhow::Result<Child> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    let log = File::options().create(true).append(true).open(log)?;
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    child.with_context(|| format!("cannot start {}", program.display()))
}
