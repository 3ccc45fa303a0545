//! How a whole process stops: on signals, and when its parent is gone. The process is this very
//! test program, started again as `as_child`; what tasks do on a stop is tested beside the code.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::{
    Child, ChildSpec, Shutdown, TaskGroup, describe_exit, exit_with_parent, listen_for_signals,
};

const AMPLE: Duration = Duration::from_secs(60);
/// Chooses what the child does; without it `as_child` is an empty test.
const ROLE: &str = "RUNTIME_TEST_ROLE";
const ORPHAN_GRACE_MS: &str = "RUNTIME_TEST_ORPHAN_GRACE_MS";

#[test]
fn as_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let grace_ms = std::env::var(ORPHAN_GRACE_MS).unwrap().parse().unwrap();
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let reason = tokio.block_on(async {
        let shutdown = Shutdown::new();
        let group = TaskGroup::new(shutdown.clone());
        listen_for_signals(&group, shutdown.clone()).unwrap();
        exit_with_parent(shutdown.clone(), Duration::from_millis(grace_ms)).unwrap();
        let stop = shutdown.wait();
        group.spawn("worker", async move {
            eprintln!("\nready");
            stop.await;
            eprintln!("draining");
            if role == "stubborn" {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        group.join(Duration::from_secs(3600)).await.unwrap();
        shutdown.reason().unwrap()
    });
    eprintln!("stopped: {reason}");
    std::process::exit(i32::from(reason.exit_code()));
}

struct Process {
    child: Child,
    /// Keeps the log's directory until the child is done with it.
    _directory: tempfile::TempDir,
}

impl Process {
    async fn start(role: &str, orphan_grace_ms: u64) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let spec = ChildSpec {
            name: role.to_owned(),
            program: std::env::current_exe().expect("this program has a path"),
            args: ["--exact", "as_child", "--nocapture"].map(Into::into).to_vec(),
            env: vec![
                (ROLE.to_owned(), role.to_owned()),
                (ORPHAN_GRACE_MS.to_owned(), orphan_grace_ms.to_string()),
            ],
            log_path: directory.path().join("child.log"),
        };
        let process =
            Self { child: Child::spawn(&spec).expect("it starts"), _directory: directory };
        process.has_logged("ready").await;
        process
    }

    async fn has_logged(&self, line: &str) {
        let seen = async {
            while !self.child.last_log_lines(50).iter().any(|logged| logged == line) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let seen = tokio::time::timeout(AMPLE, seen).await;
        assert!(seen.is_ok(), "{line} is missing in {:?}", self.child.last_log_lines(50));
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).expect("a pid_t");
        kill(Pid::from_raw(id), signal).expect("it runs");
    }

    async fn end(mut self) -> String {
        let status = tokio::time::timeout(AMPLE, self.child.wait()).await.expect("it ends");
        let last = self.child.last_log_lines(1).pop().unwrap_or_default();
        format!("{}, {last}", describe_exit(status.expect("it can be waited for")))
    }
}

#[tokio::test]
async fn the_first_signal_lets_the_tasks_drain() {
    let process = Process::start("patient", 3_600_000).await;
    process.signal(Signal::SIGINT);
    assert_eq!(process.end().await, "exited with code 130, stopped: interrupted (SIGINT)");

    let mut process = Process::start("patient", 3_600_000).await;
    process.child.terminate().unwrap();
    assert_eq!(process.end().await, "exited with code 143, stopped: terminated (SIGTERM)");
}

#[tokio::test]
async fn the_second_signal_ends_the_process_at_once() {
    let process = Process::start("stubborn", 3_600_000).await;
    process.signal(Signal::SIGTERM);
    process.has_logged("draining").await;
    process.signal(Signal::SIGINT);
    assert_eq!(process.end().await, "exited with code 130, draining");
}

#[tokio::test]
async fn a_process_without_a_parent_drains() {
    let mut process = Process::start("patient", 3_600_000).await;
    process.child.close_lifeline();
    let expected = "exited with code 1, stopped: the parent process is gone";
    assert_eq!(process.end().await, expected);
}

#[tokio::test]
async fn a_process_without_a_parent_does_not_outlive_its_grace() {
    let mut process = Process::start("stubborn", 20).await;
    process.child.close_lifeline();
    assert_eq!(process.end().await, "exited with code 1, draining");
}
