//! An actor whose rollouts were written long ago: work is done as soon as it is there, delivered to
//! the learner in this process and reported with the next ask.

use std::sync::Arc;
use std::time::Duration;

use proto::{ChannelSettings, Completion, LeaseAsk, Role};
use runtime::TaskGroup;
use tokio::time::MissedTickBehavior;
use types::PolicyVersion;

use crate::figures::{Figures, Rpc};
use crate::learner::Desk;
use crate::member::{Member, phase};

const ASK: Duration = Duration::from_secs(2);
/// Rollouts that it could write at once.
const ROOM: u32 = 16;
const WEIGHTS_MAX: u64 = 1 << 24;

pub(crate) struct Actor(Member);

impl Actor {
    pub(crate) async fn join(
        address: &str,
        channel: &ChannelSettings,
        index: u32,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        Member::join(address, channel, (Role::Actor, index), tasks).await.map(Self)
    }

    /// Until the stop.
    pub(crate) async fn work(
        self,
        desk: Arc<Desk>,
        figures: Arc<Figures>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let (id, coordinator) = (self.0.id, self.0.coordinator.clone());
        tokio::select! {
            () = stop => Ok(()),
            never = Member::beat(id, coordinator, Arc::clone(&figures)) => never,
            never = self.ask(&desk, &figures) => never,
        }
    }

    async fn ask(mut self, desk: &Desk, figures: &Figures) -> anyhow::Result<()> {
        let Member { id, coordinator, directives } = &mut self.0;
        tokio::time::sleep(phase(*id, ASK)).await;
        let mut ticks = tokio::time::interval(ASK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut applied, mut completed) = (None::<PolicyVersion>, Vec::new());
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let ask = LeaseAsk {
                        member: *id,
                        max_rollouts: ROOM,
                        applied_version: applied,
                        completed: std::mem::take(&mut completed),
                    };
                    let items = figures.timed(Rpc::Lease, coordinator.lease(ask)).await;
                    for item in items.unwrap_or_default() {
                        let generation = desk.deliver(item.group);
                        completed.push(Completion { lease: item.lease, generation });
                    }
                }
                changed = directives.changed() => {
                    // Whoever followed them says why it ended.
                    if changed.is_err() {
                        return Ok(());
                    }
                    let wanted = directives.borrow_and_update().version;
                    if let Some(version) = wanted.filter(|_| wanted != applied) {
                        let fetch = coordinator.fetch_weights(version, WEIGHTS_MAX);
                        if figures.timed(Rpc::FetchWeights, fetch).await.is_some() {
                            applied = Some(version);
                        }
                    }
                }
            }
        }
    }
}
