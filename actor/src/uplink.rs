//! The stream of whole training groups to one rank of the learner. A group stays here until its receipt; after
//! a break all that have none are sent again, and the learner refuses copies.

use std::collections::VecDeque;
use std::time::Duration;

use proto::{
    ChannelSettings, Completion, Directive, ErrorCode, LearnerClient, Receipt, ReceiptCode,
    ReceiptStream, RpcError,
};
use runtime::{RetryPolicy, Shutdown, waiting};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};
use types::RolloutGroup;

use crate::handover::Report;
use crate::metrics;
use crate::parcels::too_large;

pub struct Uplink {
    /// Whose groups these are.
    pub rank: usize,
    pub channel: ChannelSettings,
    pub directives: watch::Receiver<Directive>,
    /// From the engine, of this rank.
    pub groups: mpsc::Receiver<RolloutGroup>,
    /// To the lease holder.
    pub completed: mpsc::Sender<Completion>,
    /// To the reporter: groups that fit into no message.
    pub reports: mpsc::Sender<Report>,
    /// `actor.uplink_groups`: sent and without receipt.
    pub groups_max: usize,
}

/// One connection.
struct Line {
    address: String,
    groups: mpsc::Sender<RolloutGroup>,
    receipts: ReceiptStream,
}

impl Uplink {
    /// Until the shutdown; groups without receipt are dropped then and dealt again later.
    ///
    /// # Errors
    /// A learner that does not let this actor in; a new connection may mend everything else.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let stop = shutdown.wait();
        tokio::select! {
            () = stop => Ok(()),
            outcome = self.deliver() => outcome,
        }
    }

    async fn deliver(&mut self) -> anyhow::Result<()> {
        let mut unanswered: VecDeque<RolloutGroup> = VecDeque::new();
        let mut failures = 0;
        loop {
            if unanswered.is_empty() {
                let Some(group) = self.groups.recv().await else { return Ok(()) };
                unanswered.extend(self.sendable(group).await);
                continue;
            }
            let line = waiting(format!("a line to learner-{}", self.rank), None);
            let connected = self.connect(&unanswered).await;
            drop(line);
            let failure = match connected {
                Ok(line) => match self.serve(line, &mut unanswered, &mut failures).await {
                    Some(reason) => reason,
                    None => return Ok(()),
                },
                Err(error) if is_shut_out(&error) => {
                    return Err(error.context(format!("learner-{} refuses this actor", self.rank)));
                }
                Err(error) => format!("{error:#}"),
            };
            failures += 1;
            warn!(reason = failure, groups = unanswered.len(), "no line to the learner");
            tokio::time::sleep(pause(failures)).await;
        }
    }

    /// Opens a stream and puts `unanswered` on it.
    async fn connect(&mut self, unanswered: &VecDeque<RolloutGroup>) -> anyhow::Result<Line> {
        let rank = self.rank;
        let address = {
            let known = self.directives.wait_for(|known| address_of(known, rank).is_some()).await;
            let known = known.map_err(|_| anyhow::anyhow!("the coordinator is gone"))?;
            address_of(&known, rank).unwrap_or_default().to_owned()
        };
        let channel = proto::connect(&address, &self.channel).await?;
        let mut client = LearnerClient::new(channel, &self.channel);
        // Never more than `groups_max` are unanswered, so this channel is never full.
        let (groups, receiver) = mpsc::channel(self.groups_max);
        for group in unanswered {
            groups.try_send(group.clone())?;
        }
        let receipts = client.submit(ReceiverStream::new(receiver)).await?;
        info!(address, groups = unanswered.len(), "connected to the learner");
        Ok(Line { address, groups, receipts })
    }

    /// Sends and reads receipts until the line breaks, and says why; nothing if the engine is gone.
    async fn serve(
        &mut self,
        mut line: Line,
        unanswered: &mut VecDeque<RolloutGroup>,
        failures: &mut u32,
    ) -> Option<String> {
        let mut waits = None;
        loop {
            metrics::QUEUED.set(unanswered.len() as f64, &[("queue", "receipts")]);
            if waits.is_none() && !unanswered.is_empty() {
                waits = Some(waiting(format!("receipts of learner-{}", self.rank), None));
            }
            tokio::select! {
                group = self.groups.recv(), if unanswered.len() < self.groups_max => {
                    let Some(group) = self.sendable(group?).await else { continue };
                    unanswered.push_back(group.clone());
                    if line.groups.try_send(group).is_err() {
                        return Some("the learner reads no groups any more".to_owned());
                    }
                }
                receipt = line.receipts.next() => match receipt {
                    Ok(Some(receipt)) => {
                        // A connection alone does not show that the line carries groups.
                        *failures = 0;
                        waits = None;
                        self.settle(&receipt, unanswered).await;
                    }
                    Ok(None) => return Some("the learner closed the stream".to_owned()),
                    Err(error) => return Some(error.to_string()),
                },
                changed = self.directives.changed() => {
                    // While a rank is missing the others may still be where they were.
                    let moved = address_of(&self.directives.borrow(), self.rank)
                        .is_some_and(|address| address != line.address);
                    if changed.is_err() || moved {
                        return Some("the learner has moved".to_owned());
                    }
                }
            }
        }
    }

    /// A group over the bound on messages would break every line that it is put on.
    async fn sendable(&self, group: RolloutGroup) -> Option<RolloutGroup> {
        let Some(failed) = too_large(&group, self.channel.message_bytes_max) else {
            return Some(group);
        };
        warn!(group = %failed.group, detail = failed.detail, "group cannot be sent");
        // Closed only while the process stops.
        let _ = self.reports.send(Report::Failed(failed)).await;
        None
    }

    async fn settle(&self, receipt: &Receipt, unanswered: &mut VecDeque<RolloutGroup>) {
        let same = |g: &RolloutGroup| g.group == receipt.group && g.epoch == receipt.epoch;
        let Some(group) = unanswered.iter().position(same).and_then(|at| unanswered.remove(at))
        else {
            debug!(group = %receipt.group, "receipt for a group that was not sent");
            return;
        };
        let code = match receipt.code {
            ReceiptCode::Accepted => "accepted",
            ReceiptCode::Duplicate => "duplicate",
            ReceiptCode::Refused => "refused",
            ReceiptCode::Replaced => "replaced",
        };
        metrics::RECEIPTS.increment(1, &[("code", code)]);
        match receipt.code {
            ReceiptCode::Accepted | ReceiptCode::Duplicate => {
                // Closed only while the process stops.
                let completion = Completion { lease: group.lease, generation: receipt.generation };
                let _ = self.completed.send(completion).await;
            }
            // In both cases the learner itself returns the group to the coordinator.
            ReceiptCode::Replaced => {}
            ReceiptCode::Refused => {
                warn!(group = %group.group, code, reason = receipt.reason, "group not taken");
            }
        }
    }
}

fn is_shut_out(error: &anyhow::Error) -> bool {
    error.downcast_ref::<RpcError>().is_some_and(|error| error.code == ErrorCode::Unauthenticated)
}

fn address_of(directive: &Directive, rank: usize) -> Option<&str> {
    let formation = directive.formation.as_ref()?;
    Some(formation.ranks.get(rank)?.address.as_str())
}

fn pause(failures: u32) -> Duration {
    let policy = RetryPolicy { attempts: u32::MAX, ..RetryPolicy::default() };
    policy.delay_after(failures.min(16)).unwrap_or_default()
}
