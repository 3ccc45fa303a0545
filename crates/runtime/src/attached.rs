//! A child that speaks on this process's terminal, run from start to end. Children that run beside
//! each other, with logs, are `child`'s.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::{ChildError, Shutdown};

/// Runs `program` until it ends. When `shutdown` is requested it gets SIGTERM, and SIGKILL after
/// `grace`. Its standard input is a pipe that closes with this process (see `exit_with_parent`).
/// Must be called inside a tokio runtime.
///
/// # Errors
/// A program that cannot be started, signalled or waited for.
pub async fn run_attached(
    program: &Path,
    args: &[OsString],
    shutdown: &Shutdown,
    grace: Duration,
) -> Result<ExitStatus, ChildError> {
    let name = || program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = |cause| ChildError::Start { name: name(), program: program.to_owned(), cause };
    let wait = |cause| ChildError::Wait { name: name(), cause };
    let mut process = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        // A terminal's Ctrl-C reaches the foreground group only; this process passes it on.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    // `wait` would close the pipe, which says that this process is gone.
    let _lifeline = process.stdin.take();
    tokio::select! {
        ended = process.wait() => return ended.map_err(wait),
        () = shutdown.wait() => {}
    }
    if let Some(id) = process.id() {
        let id = Pid::from_raw(i32::try_from(id).expect("process ids fit into a pid_t"));
        let signal = Signal::SIGTERM;
        kill(id, signal).map_err(|source| ChildError::Signal {
            name: name(),
            signal: signal.as_str(),
            cause: source,
        })?;
    }
    match tokio::time::timeout(grace, process.wait()).await {
        Ok(ended) => ended.map_err(wait),
        Err(_) => {
            process.start_kill().map_err(wait)?;
            process.wait().await.map_err(wait)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StopReason;

    fn shell(script: &str) -> Vec<OsString> {
        ["-c", script].map(OsString::from).to_vec()
    }

    #[tokio::test]
    async fn it_ends_by_itself_or_is_ended() {
        let (sh, grace) = (Path::new("/bin/sh"), Duration::from_millis(200));
        let shutdown = Shutdown::new();
        let ended = run_attached(sh, &shell("exit 3"), &shutdown, grace).await.unwrap();
        assert_eq!(ended.code(), Some(3));
        shutdown.trigger(StopReason::Interrupted);
        let polite = shell("trap 'exit 7' TERM; while :; do read line; done");
        let ended = run_attached(sh, &polite, &shutdown, Duration::from_secs(30)).await.unwrap();
        assert!(matches!(
            crate::describe_exit(ended).as_str(),
            "exited with code 7" | "was killed by SIGTERM"
        ));
        let deaf = shell("trap '' TERM; while :; do read line; done");
        let ended = run_attached(sh, &deaf, &shutdown, grace).await.unwrap();
        assert!(!ended.success());
        let missing = run_attached(Path::new("/nowhere/x"), &[], &shutdown, grace).await;
        assert!(missing.unwrap_err().to_string().contains("/nowhere/x"));
    }
}
