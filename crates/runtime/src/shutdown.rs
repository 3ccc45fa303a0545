//! The one way a process is asked to stop, and why it was asked. It carries the wish only:
//! who drains what, and for how long, is the business of the tasks and of `TaskGroup::join`.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::TaskGroup;

/// Why a process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, a terminal's Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// The process that started this one is gone.
    ParentGone,
    /// A task returned an error or panicked; the text names it.
    TaskFailed(String),
    /// The program itself decided to stop: its work is done, or a peer asked it to.
    Requested(String),
}

impl StopReason {
    /// The exit code that this reason calls for when nothing else went wrong.
    pub fn exit_code(&self) -> u8 {
        match self {
            StopReason::Interrupted => 130,
            StopReason::Terminated => 143,
            StopReason::ParentGone | StopReason::TaskFailed(_) => 1,
            StopReason::Requested(_) => 0,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Interrupted => f.write_str("interrupted (SIGINT)"),
            StopReason::Terminated => f.write_str("terminated (SIGTERM)"),
            StopReason::ParentGone => f.write_str("the parent process is gone"),
            StopReason::TaskFailed(text) | StopReason::Requested(text) => f.write_str(text),
        }
    }
}

impl From<&str> for StopReason {
    fn from(text: &str) -> Self {
        StopReason::Requested(text.to_owned())
    }
}

impl From<String> for StopReason {
    fn from(text: String) -> Self {
        StopReason::Requested(text)
    }
}

/// A latch that every task of a process watches. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves once the stop is requested; at once if it already was. Owned, so that it can be
    /// handed to a server as its shutdown signal.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Asks for the stop. The first reason stays; later ones are ignored.
    pub fn trigger(&self, reason: impl Into<StopReason>) {
        let reason = reason.into();
        if self.reason.set(reason.clone()).is_ok() {
            info!(%reason, "stopping");
        }
        self.token.cancel();
    }

    /// Why the stop was requested, or `None` while it was not.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().cloned()
    }
}

/// The first SIGINT or SIGTERM asks for a graceful stop, a second one ends the process at once
/// with 130 or 143. Must be called inside a tokio runtime.
pub fn listen_for_signals(group: &TaskGroup, shutdown: Shutdown) -> io::Result<()> {
    let interrupts = signal(SignalKind::interrupt())?;
    let terminations = signal(SignalKind::terminate())?;
    group.spawn_watcher("signals", watch_signals(interrupts, terminations, shutdown));
    Ok(())
}

async fn watch_signals(mut interrupts: Signal, mut terminations: Signal, shutdown: Shutdown) {
    let first = next_signal(&mut interrupts, &mut terminations).await;
    shutdown.trigger(first);
    let second = next_signal(&mut interrupts, &mut terminations).await;
    warn!(reason = %second, "second signal, ending without draining");
    std::process::exit(i32::from(second.exit_code()));
}

async fn next_signal(interrupts: &mut Signal, terminations: &mut Signal) -> StopReason {
    tokio::select! {
        _ = interrupts.recv() => StopReason::Interrupted,
        _ = terminations.recv() => StopReason::Terminated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays_and_every_clone_sees_it() {
        let shutdown = Shutdown::new();
        let seen_elsewhere = shutdown.clone();
        assert!(!seen_elsewhere.requested());
        assert_eq!(seen_elsewhere.reason(), None);

        shutdown.trigger("all steps are done");
        shutdown.trigger(StopReason::Interrupted);

        seen_elsewhere.wait().await;
        assert!(seen_elsewhere.requested());
        assert_eq!(
            seen_elsewhere.reason(),
            Some(StopReason::Requested("all steps are done".to_owned()))
        );
    }

    #[test]
    fn exit_codes_follow_the_shell_convention() {
        assert_eq!(StopReason::Interrupted.exit_code(), 130);
        assert_eq!(StopReason::Terminated.exit_code(), 143);
        assert_eq!(StopReason::ParentGone.exit_code(), 1);
        assert_eq!(StopReason::from("done").exit_code(), 0);
    }
}
