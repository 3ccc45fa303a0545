//! What goes back to the coordinator: evaluated groups, several at a time, and groups given up.

use proto::{CoordinatorClient, ReturnReason, ReturnedGroup, RpcError};
use runtime::{Attempt, RetryPolicy, Shutdown, retry};
use tokio::sync::mpsc;
use types::{LeaseId, MemberId, RolloutGroup};

use crate::handover::{CompletedLease, FailedGroup, Report};

/// Groups of one report.
const REPORT_GROUPS: usize = 64;

pub struct Reporter {
    pub coordinator: CoordinatorClient,
    pub member: MemberId,
    /// From the engine.
    pub reports: mpsc::Receiver<Report>,
    /// To the lease holder.
    pub completed: mpsc::Sender<CompletedLease>,
}

impl Reporter {
    /// Until the shutdown; what was not reported then is dealt again.
    ///
    /// # Errors
    /// The coordinator refuses a report, or cannot be reached for long.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let stop = shutdown.wait();
        tokio::select! {
            () = stop => Ok(()),
            outcome = self.report() => outcome,
        }
    }

    async fn report(&mut self) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(REPORT_GROUPS);
        while self.reports.recv_many(&mut batch, REPORT_GROUPS).await > 0 {
            let mut evaluated = Vec::new();
            for report in batch.drain(..) {
                match report {
                    Report::Evaluated(group) => evaluated.push(group),
                    Report::Failed(failed) => self.give_back(failed).await?,
                }
            }
            if !evaluated.is_empty() {
                self.evaluated(evaluated).await?;
            }
        }
        Ok(())
    }

    async fn evaluated(&self, groups: Vec<RolloutGroup>) -> anyhow::Result<()> {
        let leases: Vec<LeaseId> = groups.iter().map(|group| group.lease).collect();
        retry(RetryPolicy::default(), "reporting an evaluation", || {
            let (mut coordinator, groups) = (self.coordinator.clone(), groups.clone());
            async move { again(coordinator.report_eval(self.member, groups).await) }
        })
        .await?;
        for lease in leases {
            // Closed only while the process stops.
            let _ = self.completed.send(lease).await;
        }
        Ok(())
    }

    async fn give_back(&self, failed: FailedGroup) -> anyhow::Result<()> {
        let returned = ReturnedGroup {
            member: self.member,
            group: failed.group,
            epoch: failed.epoch,
            purpose: failed.purpose,
            reason: ReturnReason::Failed,
            detail: failed.detail,
        };
        retry(RetryPolicy::default(), "giving a group back", || {
            let (mut coordinator, returned) = (self.coordinator.clone(), returned.clone());
            async move { again(coordinator.return_group(returned).await) }
        })
        .await?;
        Ok(())
    }
}

fn again<T>(outcome: Result<T, RpcError>) -> Result<T, Attempt<RpcError>> {
    outcome.map_err(|error| match error.code.retryable() {
        true => Attempt::Again(error),
        false => Attempt::Stop(error),
    })
}
