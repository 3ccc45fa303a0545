//! How the time of a stop is divided, counted from the wish to stop, so that the whole keeps to one
//! promise: `shutdown.grace_seconds` and about a second more. It ends nobody itself.

use std::time::Duration;

/// What the kernel may take to collect what was killed.
pub const COLLECT_GRACE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPlan {
    /// A child's own `shutdown.grace_seconds`: those that keep to it are never forced.
    pub child: Duration,
    /// When children that are still there get SIGTERM …
    pub terminate: Duration,
    /// … and SIGKILL.
    pub kill: Duration,
}

impl StopPlan {
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { child: grace * 5 / 8, terminate: grace * 6 / 8, kill: grace * 7 / 8 }
    }
}

#[cfg(test)]
mod tests {
    use settings::Settings;

    use super::*;
    use crate::host::JOIN_GRACE;
    use crate::session::SERVICE_GRACE;

    #[test]
    fn a_stop_with_a_deaf_child_keeps_its_promise_of_ten_seconds() {
        let grace = Duration::from_secs_f64(Settings::default().shutdown.grace_seconds);
        let plan = StopPlan::new(grace);
        assert!(plan.child < plan.terminate && plan.terminate < plan.kill);
        let whole = plan.kill + COLLECT_GRACE + SERVICE_GRACE + JOIN_GRACE;
        assert!(whole <= grace + Duration::from_secs(1), "{whole:?}");
        assert!(whole < Duration::from_secs(10), "{whole:?}");
    }
}
