//! Asks the coordinator for as much work as there are free slots, and reports what was delivered.
//! Which work there is, and for whom, is the coordinator's.

use std::time::{Duration, Instant};

use member::{Tie, may_pass};
use proto::{Completion, LeaseAsk};
use runtime::{RetryPolicy, Shutdown, waiting};
use tokio::sync::{mpsc, watch};
use tracing::warn;
use types::PolicyVersion;

use crate::handover::{Command, Status};

/// Deliveries are reported after this long even where no work is asked for.
const REPORT_MAX: Duration = Duration::from_secs(1);

pub struct LeaseHolder {
    pub tie: Tie,
    /// The engine's.
    pub status: watch::Receiver<Status>,
    /// The version that the engine is to have; leases are for actors that have it.
    pub wanted: watch::Receiver<Option<PolicyVersion>>,
    pub completed: mpsc::Receiver<Completion>,
    pub engine: mpsc::Sender<Command>,
    /// Rollouts that must fit before it is worth asking: `train.samples_per_problem`.
    pub group_samples: u32,
    /// `actor.lease_wait_ms`: between two asks where nothing has changed since an empty answer.
    pub pause: Duration,
}

impl LeaseHolder {
    /// Until the shutdown. Leases in hand come back to the coordinator by their deadlines.
    ///
    /// # Errors
    /// The coordinator refuses to deal with this member.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let stop = shutdown.wait();
        tokio::select! {
            () = stop => Ok(()),
            outcome = self.hold() => outcome,
        }
    }

    async fn hold(&mut self) -> anyhow::Result<()> {
        let mut leased = 0;
        let mut delivered: Vec<Completion> = Vec::new();
        let mut refusal = None;
        let (mut failures, policy) = (0, RetryPolicy::lasting(self.tie.patience));
        loop {
            // Whoever closed a channel reports why.
            let Some(room) = self.await_room(leased, refusal, &mut delivered).await else {
                return Ok(());
            };
            let (version, asked) = (self.status.borrow().version, Instant::now());
            let ask = LeaseAsk {
                member: self.tie.member,
                max_rollouts: room,
                applied_version: version,
                completed: delivered.clone(),
            };
            match self.tie.coordinator.lease(ask).await {
                Ok(items) => {
                    (failures, delivered) = (0, Vec::new());
                    if room > 0 {
                        let refused = Refusal { room, version, at: Instant::now() };
                        refusal = items.is_empty().then_some(refused);
                    }
                    if items.is_empty() {
                        continue;
                    }
                    leased += items.iter().map(|item| u64::from(item.samples)).sum::<u64>();
                    if self.engine.send(Command::Work { items, asked }).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) if !may_pass(error.code) => return Err(error.into()),
                Err(error) => {
                    failures += 1;
                    let Some(delay) = policy.delay_after(failures) else {
                        return Err(error.into());
                    };
                    warn!(%error, failures, "no lease, will ask again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Waits until it is worth asking for work, or until deliveries have waited long enough to be
    /// reported alone; says how many rollouts fit. Nothing once the engine or the weights' task is
    /// gone.
    async fn await_room(
        &mut self,
        leased: u64,
        refusal: Option<Refusal>,
        delivered: &mut Vec<Completion>,
    ) -> Option<u32> {
        let _waits = refusal.map(|_| waiting("work from the coordinator", None));
        let mut report_at = None;
        loop {
            while let Ok(completion) = self.completed.try_recv() {
                delivered.push(completion);
            }
            let now = Instant::now();
            if !delivered.is_empty() && report_at.is_none() {
                report_at = Some(now + REPORT_MAX);
            }
            let status = *self.status.borrow_and_update();
            let current =
                status.version.is_some() && status.version == *self.wanted.borrow_and_update();
            let room = usable(status, leased);
            let mut limit = report_at.unwrap_or(now + REPORT_MAX);
            if current && room >= self.group_samples {
                let ask_at = refusal.map_or(now, |refusal| {
                    refusal.holds_until((room, status.version), self.group_samples, self.pause)
                });
                if ask_at <= now {
                    return Some(room);
                }
                limit = limit.min(ask_at);
            }
            if report_at.is_some_and(|at| at <= now) {
                return Some(0);
            }
            let news = tokio::select! {
                changed = self.status.changed() => changed.is_ok(),
                changed = self.wanted.changed() => changed.is_ok(),
                Some(completion) = self.completed.recv() => {
                    delivered.push(completion);
                    true
                }
                () = tokio::time::sleep_until(limit.into()) => true,
            };
            if !news {
                return None;
            }
        }
    }
}

/// The coordinator had nothing for this much room under these weights.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    room: u32,
    version: Option<PolicyVersion>,
    at: Instant,
}

impl Refusal {
    /// Other weights or room for one more group are news; without any, one `pause`.
    fn holds_until(
        &self,
        (room, version): (u32, Option<PolicyVersion>),
        group_samples: u32,
        pause: Duration,
    ) -> Instant {
        let news = version != self.version || room >= self.room.saturating_add(group_samples);
        if news { self.at } else { self.at + pause }
    }
}

/// Free slots that no lease is on its way to.
fn usable(status: Status, leased: u64) -> u32 {
    let on_their_way = leased.saturating_sub(status.admitted);
    status.free.saturating_sub(u32::try_from(on_their_way).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_on_their_way_to_the_engine_take_up_room() {
        let status = Status { free: 64, admitted: 100, version: None };
        assert_eq!(usable(status, 100), 64);
        assert_eq!(usable(status, 148), 16);
        assert_eq!(usable(status, 200), 0);
        // A refused item counts as admitted and takes no slot.
        assert_eq!(usable(Status { admitted: 148, ..status }, 148), 64);
    }

    #[test]
    fn an_empty_answer_holds_until_there_is_news_or_a_while_has_passed() {
        let (at, pause) = (Instant::now(), Duration::from_millis(500));
        let (old, new) = (Some(PolicyVersion::new(1, 3)), Some(PolicyVersion::new(1, 4)));
        let refusal = Refusal { room: 16, version: old, at };
        let until = |room, version| refusal.holds_until((room, version), 8, pause);
        assert_eq!(until(16, old), at + pause);
        assert_eq!(until(23, old), at + pause);
        assert_eq!(until(24, old), at);
        assert_eq!(until(16, new), at);
    }
}
