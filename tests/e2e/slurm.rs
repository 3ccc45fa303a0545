//! The job of deploy/slurm on this machine, with stand-ins for `srun` and `scancel`: what Slurm itself
//! does with it is not seen here.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Programs, Summary, wait_until};

use crate::LIMIT;

/// The job under way. Dropping it ends all of it.
struct Job {
    child: Child,
    log: PathBuf,
    /// Lists the process groups of its tasks.
    groups: PathBuf,
}

impl Job {
    fn start(root: &Path, port: u16) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let programs = Programs::get().path("coordinator").parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let here = repository.join("tests/slurm");
        let path = format!("{}:{}:{path}", here.display(), programs.display());
        fs::write(root.join("groups"), "").unwrap();
        let log = root.join("log");
        let out = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut job = Command::new("bash");
        let job = job
            .arg(repository.join("deploy/slurm/tandem.sbatch"))
            .env("PATH", path)
            .env("TANDEM_RUN_DIR", root.join("run"))
            .env("SLURM_JOB_ID", "1")
            .env("SLURM_STAND_IN", root.join("groups"))
            .env("TANDEM_HOST", "127.0.0.1")
            .env("TANDEM_PORT", port.to_string())
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out);
        for (key, value) in [
            ("TRAIN__STEPS", "12"),
            ("TRAIN__SAMPLES_PER_PROBLEM", "4"),
            ("CHECKPOINT__EVERY_STEPS", "2"),
            ("EVAL__ENABLED", "false"),
        ] {
            job.env(format!("TANDEM__{key}"), value);
        }
        Self { child: job.spawn().unwrap(), log, groups: root.join("groups") }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn expect_code(mut self, code: i32) {
        let ended = wait_until("the job's end", LIMIT, || self.child.try_wait().unwrap());
        assert_eq!(ended.code(), Some(code), "{}", fs::read_to_string(&self.log).unwrap());
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for group in fs::read_to_string(&self.groups).unwrap_or_default().lines() {
            let group: i32 = group.parse().unwrap();
            let _ = kill(Pid::from_raw(-group), Signal::SIGKILL);
        }
    }
}

#[test]
fn a_job_that_is_stopped_goes_on_when_it_is_submitted_again() {
    let root = tempfile::tempdir().unwrap();
    let steps = || {
        let lines = fs::read_to_string(root.path().join("run/metrics.jsonl")).unwrap_or_default();
        lines.lines().count()
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let job = Job::start(root.path(), port);
    wait_until("committed steps", LIMIT, || (steps() >= 3).then_some(()));
    kill(Pid::from_raw(job.pid()), Signal::SIGTERM).unwrap();
    job.expect_code(143);
    assert!(!root.path().join("run/summary.json").exists());

    Job::start(root.path(), port).expect_code(0);
    let summary = Summary::read(&root.path().join("run/summary.json"));
    assert_eq!(summary.number("steps"), 12.0);
    let groups = ["consumed", "trained_twice"].map(|of| summary.number(&format!("groups/{of}")));
    assert_eq!(groups, [96.0, 0.0]);
    let logs = root.path().join("run.logs");
    for name in ["coordinator-0", "weak-server-0", "learner-0", "actor-0", "actor-1"] {
        assert!(logs.join(format!("{name}.log")).is_file(), "{name}");
    }
}
