//! The coordinator as a process: started, looked at from outside, stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::log_field;

/// Rollouts of one group.
const SAMPLES: u32 = 4;
/// The unit of CPU time in /proc.
const TICKS_PER_SECOND: f64 = 100.0;
const LOOK: Duration = Duration::from_millis(50);
const STOP_MAX: Duration = Duration::from_secs(20);

/// What the process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
}

/// This process and its children may have so many files open.
pub(crate) fn allow_files(files: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard >= files, "{files} files must be open at once, the limit is {hard} (ulimit -Hn)");
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.max(files), hard)?)
}

impl Server {
    /// `coordinator serve`, with work for all actors at any time: a step is as many groups as there
    /// are actors, and two steps are open.
    pub(crate) fn start(program: &Path, dir: &Path, actors: u32) -> anyhow::Result<Self> {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent)?;
        }
        let log = File::create(dir.with_extension("out")).context("a file beside the run")?;
        let set = [
            "eval.enabled=false".to_owned(),
            "train.steps=1000000".to_owned(),
            format!("train.problems_per_step={actors}"),
            format!("train.samples_per_problem={SAMPLES}"),
            format!("learner.inbox_groups={}", actors * 2),
            format!("limits.connections={}", actors + 64),
        ];
        let child = Command::new(program)
            .args(["serve", "--actors", &actors.to_string()])
            .arg("--run-dir")
            .arg(dir)
            .args(set.iter().flat_map(|pair| ["--set", pair]))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}: `just build`", program.display()))?;
        Ok(Self { child, dir: dir.to_owned() })
    }

    /// Where it listens.
    pub(crate) async fn address(&mut self, limit: Duration) -> anyhow::Result<String> {
        let began = Instant::now();
        let log = self.dir.join("logs/coordinator.log");
        while began.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                let told = fs::read_to_string(self.dir.with_extension("out"))?;
                bail!("the coordinator ended with {status}:\n{told}");
            }
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(address) = log_field(&text, "address") {
                return Ok(address);
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("the coordinator has not said where it listens in {}", log.display())
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", self.child.id()));
        let (stat, memory) = (of("stat")?, of("status")?);
        // The name before may hold anything.
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let (_, resident) = memory.split_once("VmRSS:").context("/proc/PID/status")?;
        let kib = resident.split_whitespace().next().context("/proc/PID/status")?;
        Ok(Usage {
            at: Instant::now(),
            cpu: Duration::from_secs_f64(ticks / TICKS_PER_SECOND),
            resident_bytes: kib.parse::<u64>()? << 10,
        })
    }

    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        let began = Instant::now();
        while began.elapsed() < STOP_MAX {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        bail!("the coordinator does not end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
