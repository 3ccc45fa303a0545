//! Tests that take a process of their own with them: the test binary starts itself once more, with
//! one ignored test that does as it is told and is killed where it is told.

use std::fs::{self, File};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};

use crate::wait::wait_until;

/// Holds what the process is to do.
const TASK: &str = "TANDEM_TEST_TASK";
/// Before each line that a process says; libtest prints between them.
const MARK: &str = "said: ";
/// One process, at most.
const LIMIT: Duration = Duration::from_secs(120);

/// How such a process ended, and what it had said by then.
#[derive(Debug)]
pub struct Alone {
    pub status: ExitStatus,
    pub said: Vec<String>,
    /// All that it printed, for messages.
    pub output: String,
}

impl Alone {
    #[must_use]
    pub fn was_killed(&self) -> bool {
        std::os::unix::process::ExitStatusExt::signal(&self.status) == Some(9)
    }
}

/// Runs one ignored test of this binary in a process of its own, with a task.
///
/// # Panics
/// It cannot be started, or does not end.
#[must_use]
pub fn run_alone(test: &str, task: &str) -> Alone {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("output");
    let output = File::create(&path).expect("a file in it");
    let mut child = Command::new(std::env::current_exe().expect("a running test has a file"))
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .stdin(Stdio::null())
        .stderr(output.try_clone().expect("one more handle"))
        .stdout(output)
        .spawn()
        .expect("this binary starts");
    let status = wait_until(test, LIMIT, || child.try_wait().expect("our own child"));
    let output = fs::read_to_string(&path).expect("what it printed");
    let said = output.lines().filter_map(|line| line.split_once(MARK));
    let said = said.map(|(_, text)| text.to_owned()).collect();
    Alone { status, said, output }
}

/// In such a process: what it is to do. None where somebody runs the ignored tests by hand.
#[must_use]
pub fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// In such a process: tells whoever started it.
pub fn say(text: &str) {
    // What libtest began to print does not end its line.
    println!("\n{MARK}{text}");
}

/// In such a process: it is killed when it reaches a failpoint for the `hit`-th time, counted from 1.
///
/// # Panics
/// Failpoints are not built in.
pub fn die_at(point: &str, hit: u32) {
    assert!(fail::has_failpoints(), "built without failpoints");
    let hits = AtomicU32::new(0);
    let die = move || {
        if hits.fetch_add(1, Ordering::SeqCst) + 1 == hit {
            raise(Signal::SIGKILL).expect("a process may kill itself");
        }
    };
    fail::cfg_callback(point, die).expect("a callback is an action");
}

/// In such a process: no file grows beyond that until another limit is set, as on a full disk.
/// Threads started later see errors too, and no signal.
///
/// # Panics
/// The limit cannot be set.
pub fn limit_files(bytes: u64) {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().expect("a thread may block a signal");
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_FSIZE, bytes.min(most), most).expect("it may be set up to the most");
}
