//! What goes back to the coordinator: evaluated groups, several at a time, and groups given up.

use member::{Tie, may_pass};
use proto::{CoordinatorClient, ReturnedGroup, RpcError};
use runtime::{GaveUp, Shutdown};
use tokio::sync::mpsc;
use tracing::warn;
use types::{MemberId, RolloutGroup};

use crate::handover::{FailedGroup, Report};
use crate::parcels::{ReportLimits, reports};

/// Groups of one report. No setting: it only saves calls, and `limits.message_bytes` bounds a
/// report as well.
const REPORT_GROUPS: usize = 64;

pub struct Reporter {
    pub tie: Tie,
    /// From the engine, and from the uplink what it cannot send.
    pub reports: mpsc::Receiver<Report>,
    /// `limits.message_bytes`
    pub message_bytes_max: usize,
}

impl Reporter {
    /// Until the shutdown; what was not reported then is dealt again.
    ///
    /// # Errors
    /// The coordinator cannot be reached for long.
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
            let (mut evaluated, mut failed) = (Vec::new(), Vec::new());
            for report in batch.drain(..) {
                match report {
                    Report::Evaluated(group) => evaluated.push(group),
                    Report::Failed(group) => failed.push(group),
                }
            }
            let limits = ReportLimits { groups: REPORT_GROUPS, bytes: self.message_bytes_max };
            let (evaluations, too_large) = reports(evaluated, limits);
            for group in failed.into_iter().chain(too_large) {
                self.give_back(group).await?;
            }
            for groups in evaluations {
                self.evaluated(groups).await?;
            }
        }
        Ok(())
    }

    async fn evaluated(&self, groups: Vec<RolloutGroup>) -> anyhow::Result<()> {
        self.call("reporting an evaluation", |mut coordinator, member| {
            let groups = groups.clone();
            async move { coordinator.report_eval(member, groups).await }
        })
        .await
    }

    async fn give_back(&self, failed: FailedGroup) -> anyhow::Result<()> {
        self.call("giving a group back", |mut coordinator, member| {
            let returned = ReturnedGroup {
                member,
                group: failed.group,
                epoch: failed.epoch,
                purpose: failed.purpose,
                reason: failed.reason,
                detail: failed.detail.clone(),
            };
            async move { coordinator.return_group(returned).await }
        })
        .await
    }

    /// A refusal costs what was reported, not the actor: the coordinator takes what is good of a
    /// report and deals the rest again, as often as it allows.
    async fn call<F>(
        &self,
        what: &str,
        attempt: impl Fn(CoordinatorClient, MemberId) -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = Result<(), RpcError>>,
    {
        match self.tie.insist(what, attempt).await {
            Ok(()) => Ok(()),
            Err(GaveUp { error, .. }) if !may_pass(error.code) => {
                warn!(%error, what, "the coordinator refuses a report");
                Ok(())
            }
            Err(gave_up) => Err(gave_up.into()),
        }
    }
}
