//! One uplink for each rank of the learner: groups go to the rank that they belong to. What becomes
//! of them there is the uplink's.

use anyhow::{Context, bail};
use proto::{ChannelSettings, Completion, Directive};
use runtime::{Shutdown, TaskGroup};
use tokio::sync::{mpsc, watch};
use types::RolloutGroup;

use crate::handover::Report;
use crate::uplink::Uplink;

/// What all uplinks have in common.
pub struct Uplinks {
    pub tasks: TaskGroup,
    pub channel: ChannelSettings,
    pub directives: watch::Receiver<Directive>,
    /// From the engine.
    pub groups: mpsc::Receiver<RolloutGroup>,
    pub completed: mpsc::Sender<Completion>,
    pub reports: mpsc::Sender<Report>,
    /// `actor.uplink_groups`: of each uplink.
    pub groups_max: usize,
}

impl Uplinks {
    /// Until the shutdown.
    ///
    /// # Errors
    /// The number of ranks has changed under way.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let stop = shutdown.wait();
        tokio::select! {
            () = stop => Ok(()),
            outcome = self.sort(&shutdown) => outcome,
        }
    }

    async fn sort(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let known = self.directives.wait_for(|known| ranks(known).is_some()).await;
        // Without a coordinator there is a stop.
        let world = known.ok().and_then(|known| ranks(&known)).unwrap_or_default();
        let uplinks: Vec<_> = (0..world).map(|rank| self.spawn(rank, shutdown)).collect();
        while let Some(group) = self.groups.recv().await {
            if let Some(found) = ranks(&self.directives.borrow()).filter(|found| *found != world) {
                bail!("the learner has {found} ranks now and had {world}: start the actor anew");
            }
            let uplink = uplinks.get(group.group.rank(world));
            let uplink = uplink.context("a group belongs to one of the ranks")?;
            if uplink.send(group).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn spawn(&self, rank: usize, shutdown: &Shutdown) -> mpsc::Sender<RolloutGroup> {
        let (sender, groups) = mpsc::channel(self.groups_max);
        let uplink = Uplink {
            rank,
            channel: self.channel.clone(),
            directives: self.directives.clone(),
            groups,
            completed: self.completed.clone(),
            reports: self.reports.clone(),
            groups_max: self.groups_max,
        };
        self.tasks.spawn(format!("uplink {rank}"), uplink.run(shutdown.clone()));
        sender
    }
}

fn ranks(directive: &Directive) -> Option<usize> {
    directive.formation.as_ref().map(|formation| formation.ranks.len())
}
