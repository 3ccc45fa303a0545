//! One invocation of the coordinator in a temporary directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Programs, Summary, wait_until};

/// A run has the machine for itself: limits on how fast it stops mean nothing otherwise.
static MACHINE: Mutex<()> = Mutex::new(());

/// A coordinator that may still run. Dropping it kills it.
pub struct Run {
    child: Option<Child>,
    dir: TempDir,
    _machine: MutexGuard<'static, ()>,
}

/// What a coordinator left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub seconds: f64,
}

impl Ended {
    /// # Panics
    /// The exit code is another; prints all output.
    pub fn expect_code(&self, code: i32) -> &Self {
        let Self { code: found, stdout, stderr, .. } = self;
        assert_eq!(*found, Some(code), "stdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }
}

impl Run {
    /// Starts `coordinator ARGS`; `{dir}` in an argument stands for the run directory.
    ///
    /// # Panics
    /// The program cannot be started.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        Self::start_under(&[], args)
    }

    /// The same with variables in its environment, and in that of the processes it starts.
    ///
    /// # Panics
    /// The program cannot be started.
    #[must_use]
    pub fn start_under(variables: &[(&str, String)], args: &[&str]) -> Self {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let child = spawn(dir.path(), variables, args);
        Self { child: Some(child), dir, _machine: machine }
    }

    /// Runs `coordinator ARGS` to its end.
    ///
    /// # Panics
    /// It does not end within `limit`.
    #[must_use]
    pub fn to_end(args: &[&str], limit: Duration) -> (Self, Ended) {
        let mut run = Self::start(args);
        let ended = run.wait(limit);
        (run, ended)
    }

    /// Runs another command beside this run, to its end.
    ///
    /// # Panics
    /// It does not end within `limit`.
    #[must_use]
    pub fn then(&mut self, args: &[&str], limit: Duration) -> Ended {
        self.child = Some(spawn(self.dir.path(), &[], args));
        self.wait(limit)
    }

    /// Starts another command beside this run, which has ended.
    pub fn start_again(&mut self, args: &[&str]) {
        self.child = Some(spawn(self.dir.path(), &[], args));
    }

    /// The run directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// # Panics
    /// It has ended and was waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// # Panics
    /// The process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("the process is there");
    }

    /// Process ids of its children.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
        lists
            .flat_map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }

    /// The process id of one of its processes, for instance `actor-0`.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.dir().join("processes.json")).ok()?;
        let list: serde_json::Value = serde_json::from_str(&text).ok()?;
        let entry = list.as_array()?.iter().find(|entry| entry["name"] == name)?;
        entry["pid"].as_u64()?.try_into().ok()
    }

    /// Sends a signal to one of its processes.
    ///
    /// # Panics
    /// It is not there.
    pub fn signal_child(&self, name: &str, signal: Signal) {
        let pid = self.child(name).unwrap_or_else(|| panic!("no process {name}"));
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is there");
    }

    /// Steps committed so far.
    #[must_use]
    pub fn steps(&self) -> usize {
        let lines = std::fs::read_to_string(self.dir().join("metrics.jsonl")).unwrap_or_default();
        lines.lines().count()
    }

    /// # Panics
    /// Fewer steps after `limit`.
    pub fn wait_for_steps(&self, steps: usize, limit: Duration) {
        wait_until("committed steps", limit, || (self.steps() >= steps).then_some(()));
    }

    /// # Panics
    /// It does not end within `limit`; then it is killed and its output printed.
    #[must_use]
    pub fn wait(&mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        let mut child = self.child.take().expect("it runs");
        let pid = child.id();
        let late = loop {
            match child.try_wait().expect("a child of ours") {
                Some(_) => break false,
                None if start.elapsed() > limit => break true,
                None => std::thread::park_timeout(Duration::from_millis(20)),
            }
        };
        if late {
            let _ = child.kill();
        }
        let seconds = start.elapsed().as_secs_f64();
        let Output { status, .. } = child.wait_with_output().expect("its status");
        let read = |name: &str| {
            std::fs::read_to_string(self.dir.path().join(format!("{name}-{pid}")))
                .unwrap_or_default()
        };
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        assert!(!late, "still running after {limit:?}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        Ended { code: status.code(), stdout, stderr, seconds }
    }

    /// # Panics
    /// The run has no `summary.json`.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary::read(&self.dir().join("summary.json"))
    }

    /// Names of the processes that left a log.
    #[must_use]
    pub fn logs(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(self.dir().join("logs")).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.map(|name| name.trim_end_matches(".log").to_owned()).collect()
    }

    /// A log of one process, empty if there is none.
    #[must_use]
    pub fn log(&self, process: &str) -> String {
        std::fs::read_to_string(self.dir().join("logs").join(format!("{process}.log")))
            .unwrap_or_default()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(dir: &Path, variables: &[(&str, String)], args: &[&str]) -> Child {
    let run_dir = dir.join("run");
    let run_dir = run_dir.to_str().expect("a temporary directory's name is UTF-8");
    let args = args.iter().map(|arg| arg.replace("{dir}", run_dir));
    let (stdout, stdout_path) =
        tempfile::NamedTempFile::new_in(dir).expect("a file").keep().expect("kept");
    let (stderr, stderr_path) =
        tempfile::NamedTempFile::new_in(dir).expect("a file").keep().expect("kept");
    let child = Command::new(Programs::get().path("coordinator"))
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .expect("the coordinator starts");
    std::fs::rename(stdout_path, dir.join(format!("stdout-{}", child.id()))).expect("renamed");
    std::fs::rename(stderr_path, dir.join(format!("stderr-{}", child.id()))).expect("renamed");
    child
}
