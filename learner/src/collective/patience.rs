//! How long a rank waits for another: until a deadline, or until somebody calls the wait off. What
//! is waited for is not known here.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at whether a wait was called off.
const LOOK: Duration = Duration::from_millis(200);

/// Says whether ranks are to wait for each other no longer: the process stops, or they form anew.
/// It is asked several times a second, so that it may take being asked for a sign of life.
#[derive(Clone)]
pub struct Interrupt(Arc<dyn Fn() -> bool + Send + Sync>);

impl Interrupt {
    #[must_use]
    pub fn new(called_off: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(called_off))
    }

    /// Only deadlines end a wait.
    #[must_use]
    pub fn never() -> Self {
        Self::new(|| false)
    }

    #[must_use]
    pub fn called_off(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupt")
    }
}

/// The rest of one wait.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    until: Instant,
    interrupt: Interrupt,
}

impl Patience {
    pub(super) fn of(limit: Duration, interrupt: &Interrupt) -> Self {
        Self { until: Instant::now() + limit, interrupt: interrupt.clone() }
    }

    /// The same, with less time.
    pub(super) fn at_most(&self, limit: Duration) -> Self {
        Self { until: self.until.min(Instant::now() + limit), interrupt: self.interrupt.clone() }
    }

    /// The same with a little more, for last words.
    pub(super) fn and(&self, more: Duration) -> Self {
        Self { until: self.until + more, interrupt: Interrupt::never() }
    }

    /// How long to block before the next look. A socket takes no timeout of 0.
    ///
    /// # Errors
    /// `TimedOut` after the deadline, `ConnectionAborted` where the wait was called off.
    pub(super) fn slice(&self) -> io::Result<Duration> {
        if self.interrupt.called_off() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left.min(LOOK)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether the wait goes on after this error: a slice is over, or a signal came.
    pub(super) fn outlasts(error: &io::Error) -> bool {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
    }
}
