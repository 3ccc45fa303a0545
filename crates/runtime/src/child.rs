//! One child process: started in its own process group with a life-line on standard input and
//! its output in a log file. It restarts nothing; whoever holds it decides.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::{ChildStdin, Command};

/// `last_log_lines` looks no further back than this.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// What to start, and under which name it is reported.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Added to the environment of this process.
    pub env: Vec<(String, String)>,
    /// Appended to, never cut; its directory is made where missing.
    pub log_path: PathBuf,
}

#[derive(Debug, Error)]
pub enum ChildError {
    #[error("cannot open the log {path} of {name}: {cause}")]
    Log { name: String, path: PathBuf, cause: io::Error },
    #[error("cannot start {name} from {program}: {cause}")]
    Start { name: String, program: PathBuf, cause: io::Error },
    #[error("cannot send {signal} to {name}: {cause}")]
    Signal { name: String, signal: &'static str, cause: nix::Error },
    #[error("cannot wait for {name}: {cause}")]
    Wait { name: String, cause: io::Error },
}

/// A running or ended child. Dropping it closes the life-line and kills what is still running.
#[derive(Debug)]
pub struct Child {
    name: String,
    log_path: PathBuf,
    process: tokio::process::Child,
    /// Held open: the child takes its end of file for the death of this process.
    lifeline: Option<ChildStdin>,
}

impl Child {
    /// Starts the program. Must be called inside a tokio runtime.
    pub fn spawn(spec: &ChildSpec) -> Result<Self, ChildError> {
        let (stdout, stderr) = open_log(&spec.log_path).map_err(|source| ChildError::Log {
            name: spec.name.clone(),
            path: spec.log_path.clone(),
            cause: source,
        })?;
        let mut process = Command::new(&spec.program)
            .args(&spec.args)
            .envs(spec.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            // A terminal's Ctrl-C reaches the foreground group only; the parent tells the
            // children in its own order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ChildError::Start {
                name: spec.name.clone(),
                program: spec.program.clone(),
                cause: source,
            })?;
        let lifeline = process.stdin.take();
        Ok(Self { name: spec.name.clone(), log_path: spec.log_path.clone(), process, lifeline })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn log_path(&self) -> &std::path::Path {
        &self.log_path
    }

    /// The process id, or `None` once the child has been waited for.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for the end; the life-line stays open meanwhile. Cancel-safe.
    pub async fn wait(&mut self) -> Result<ExitStatus, ChildError> {
        let status = self.process.wait().await;
        status.map_err(|cause| ChildError::Wait { name: self.name.clone(), cause })
    }

    /// Asks it to stop, with SIGTERM. Nothing happens to a child that has ended.
    pub fn terminate(&mut self) -> Result<(), ChildError> {
        self.send(Signal::SIGTERM)
    }

    /// Ends it at once, with SIGKILL. Nothing happens to a child that has ended.
    pub fn kill(&mut self) -> Result<(), ChildError> {
        self.send(Signal::SIGKILL)
    }

    /// Closes the life-line, which the child takes for the death of this process.
    pub fn close_lifeline(&mut self) {
        self.lifeline = None;
    }

    /// The last `n` lines of its log, for the report of a death; none if the log is unreadable.
    pub fn last_log_lines(&self, n: usize) -> Vec<String> {
        let tail = read_tail(&self.log_path).unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(n);
        lines[skipped..].iter().map(|line| (*line).to_owned()).collect()
    }

    fn send(&mut self, signal: Signal) -> Result<(), ChildError> {
        // Until it is waited for, the child's id cannot belong to anyone else.
        let Some(id) = self.process.id() else { return Ok(()) };
        let id = i32::try_from(id).expect("process ids fit into a pid_t");
        kill(Pid::from_raw(id), signal).map_err(|source| ChildError::Signal {
            name: self.name.clone(),
            signal: signal.as_str(),
            cause: source,
        })
    }
}

/// How a process ended, in words: `exited with code 7`, `was killed by SIGKILL`.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {number}"),
        },
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn open_log(path: &std::path::Path) -> io::Result<(File, File)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    let second = log.try_clone()?;
    Ok((log, second))
}

fn read_tail(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let mut log = File::open(path)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    log.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests;
