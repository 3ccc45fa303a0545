//! Signs of life: that this process is there, when it last got something done, and what it waits
//! for.

use std::time::{Duration, Instant};

use proto::{CoordinatorClient, Pulse, WAITS_MAX, Wait};
use runtime::{Shutdown, waits};
use telemetry::Health;
use tokio::time::MissedTickBehavior;
use types::MemberId;

pub(crate) struct Heart {
    pub(crate) coordinator: CoordinatorClient,
    pub(crate) member: MemberId,
    pub(crate) health: Health,
    /// Between two of them.
    pub(crate) pause: Duration,
}

impl Heart {
    /// Until the stop. What becomes of one that fails is nobody's concern: whoever follows the
    /// directives notices that the coordinator is gone.
    ///
    /// # Errors
    /// None.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(self.pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.wait() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let pulse = pulse(self.member, &self.health, Instant::now());
            tokio::select! {
                () = shutdown.wait() => return Ok(()),
                beat = self.coordinator.heartbeat(pulse) => {
                    if let Err(error) = beat {
                        tracing::debug!(%error, "a sign of life did not arrive");
                    }
                }
            }
        }
    }
}

fn pulse(member: MemberId, health: &Health, now: Instant) -> Pulse {
    let waits = waits(now).into_iter().take(WAITS_MAX);
    let waits = waits.map(|wait| Wait { what: wait.what, since: wait.since, limit: wait.limit });
    Pulse { member, idle: health.idle(now), waits: waits.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_tells_of_waits_and_of_the_last_work() {
        let health = Health::of_progress(Duration::from_secs(60));
        let _waits = runtime::waiting("test: the groups of step 4", Some(Duration::from_secs(9)));
        let later = Instant::now() + Duration::from_secs(5);
        let told = pulse(MemberId(7), &health, later);
        assert_eq!(told.member, MemberId(7));
        assert!(told.idle >= Duration::from_secs(5) && told.idle < Duration::from_secs(50));
        let wait = told.waits.iter().find(|wait| wait.what == "test: the groups of step 4");
        let wait = wait.expect("it waits");
        assert_eq!(wait.limit, Some(Duration::from_secs(9)));
        assert!(wait.since >= Duration::from_secs(5));
        health.rest();
        assert_eq!(pulse(MemberId(7), &health, later).idle, Duration::ZERO, "nothing is left");
    }
}
