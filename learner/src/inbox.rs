//! Where received groups wait for their step: admission and assembler behind one lock, and the
//! queue of groups that go back to the coordinator. The wire is `ingest`'s, training the loop's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{CoordinatorClient, Receipt, ReceiptCode, ReturnReason, ReturnedGroup};
use runtime::{Attempt, RetryPolicy, retry};
use telemetry::Health;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};
use types::{Epoch, GroupId, MemberId, PolicyVersion, Purpose, RolloutGroup};

use crate::admission::{Admission, Lineage};
use crate::assembler::{Assembler, Counts, Offer};
use crate::metrics;
use crate::refill::Refill;

/// How often a wait for a batch looks around and says that it is alive.
pub(crate) const IDLE_BEAT: Duration = Duration::from_secs(1);
/// After so many looks without a batch a line says so, again and again.
const LOOKS_PER_NOTICE: u32 = 30;

/// A group that goes back to the coordinator, to be dealt again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenBack {
    pub group: GroupId,
    pub epoch: Epoch,
    pub purpose: Purpose,
    pub reason: ReturnReason,
    pub detail: String,
}

/// Shared by the streams of all actors and the training thread.
#[derive(Clone)]
pub struct Inbox(Arc<Parts>);

struct Parts {
    admission: Admission,
    refill: Option<Refill>,
    resumed_step: u32,
    state: Mutex<State>,
    changed: Notify,
    returns: mpsc::Sender<GivenBack>,
}

struct State {
    assembler: Assembler,
    published: Option<PolicyVersion>,
}

impl Inbox {
    /// `returns` takes what is given back; see [`return_groups`].
    #[must_use]
    pub fn new(
        admission: Admission,
        refill: Option<Refill>,
        assembler: Assembler,
        returns: mpsc::Sender<GivenBack>,
    ) -> Self {
        let resumed_step = assembler.step();
        let state = Mutex::new(State { assembler, published: None });
        let changed = Notify::new();
        Self(Arc::new(Parts { admission, refill, resumed_step, state, changed, returns }))
    }

    /// From now on rollouts of this version may arrive.
    pub fn announce(&self, version: PolicyVersion) {
        self.lock().published = Some(version);
    }

    /// Decides on one group. A refused one is given back here, the actor only drops it.
    pub async fn receive(&self, group: RolloutGroup) -> Receipt {
        let (id, epoch, purpose) = (group.group, group.epoch, group.purpose);
        let early = self.lock().assembler.judge(id, epoch);
        let offer = match early {
            Offer::Accepted => match self.check(&group) {
                Ok(()) if self.0.refill.is_some_and(|refill| refill.replaces(&group)) => {
                    let offer = self.lock().assembler.pass_over(id, epoch);
                    if offer == Offer::Accepted {
                        return self.replace(id, epoch, purpose).await;
                    }
                    offer
                }
                Ok(()) => self.lock().assembler.offer(group),
                Err(reason) => return self.refuse(id, epoch, purpose, reason).await,
            },
            other => other,
        };
        match offer {
            Offer::Accepted => {
                let (held, missing) = {
                    let state = self.lock();
                    (state.assembler.held(), state.assembler.missing())
                };
                metrics::INBOX.set(held as f64, &[]);
                if missing == 0 {
                    self.0.changed.notify_one();
                }
                receipt(id, epoch, ReceiptCode::Accepted, String::new())
            }
            Offer::Duplicate => receipt(id, epoch, ReceiptCode::Duplicate, String::new()),
            Offer::Ahead => {
                let reason = "its step is not open yet: the learner takes the current step and \
                              staleness.max_versions more"
                    .to_owned();
                self.refuse(id, epoch, purpose, reason).await
            }
            Offer::Elsewhere { rank } => {
                // Not given back: the actor is to send it there.
                receipt(id, epoch, ReceiptCode::Refused, format!("it belongs to rank {rank}"))
            }
        }
    }

    /// Another problem is to take the group's place.
    async fn replace(&self, group: GroupId, epoch: Epoch, purpose: Purpose) -> Receipt {
        let (reason, detail) = (ReturnReason::Replaced, "it teaches nothing".to_owned());
        debug!(%group, %epoch, detail, "group is replaced");
        self.give_back(GivenBack { group, epoch, purpose, reason, detail }).await;
        receipt(group, epoch, ReceiptCode::Replaced, String::new())
    }

    /// Refuses what did not even convert to a group.
    pub async fn refuse(
        &self,
        group: GroupId,
        epoch: Epoch,
        purpose: Purpose,
        detail: String,
    ) -> Receipt {
        warn!(%group, %epoch, reason = detail, "group refused");
        let reason = ReturnReason::Refused;
        self.give_back(GivenBack { group, epoch, purpose, reason, detail: detail.clone() }).await;
        receipt(group, epoch, ReceiptCode::Refused, detail)
    }

    /// All groups of the current step, once they are there and fresh; stale ones are given back.
    /// The caller bounds the wait by dropping the future. Every look at the groups is a beat.
    pub async fn next_batch(&self, health: &Health) -> Vec<RolloutGroup> {
        let mut looks: u32 = 0;
        loop {
            let changed = self.0.changed.notified();
            let (formed, step, missing) = {
                let mut state = self.lock();
                let formed = state.assembler.form();
                (formed, state.assembler.step(), state.assembler.missing())
            };
            for group in &formed.stale {
                self.give_stale_back(group, step).await;
            }
            if let Some(batch) = formed.batch {
                metrics::INBOX.set(self.lock().assembler.held() as f64, &[]);
                return batch;
            }
            health.beat();
            if tokio::time::timeout(IDLE_BEAT, changed).await.is_err() {
                looks += 1;
                if looks.is_multiple_of(LOOKS_PER_NOTICE) {
                    warn!(step, missing, "still waiting for groups");
                }
            }
        }
    }

    /// Since the last call.
    #[must_use]
    pub fn take_counts(&self) -> Counts {
        self.lock().assembler.take_counts()
    }

    fn check(&self, group: &RolloutGroup) -> Result<(), String> {
        let published = self.lock().published;
        let published = published.ok_or("no weights are published yet")?;
        let lineage = Lineage { published, resumed_step: self.0.resumed_step };
        self.0.admission.check(group, &lineage).map_err(|refusal| refusal.to_string())
    }

    async fn give_stale_back(&self, group: &RolloutGroup, step: u32) {
        metrics::GROUPS.increment(1, &[("receipt", "stale")]);
        let oldest = crate::assembler::oldest_step(group).unwrap_or_default();
        let detail = format!("its oldest weights are of step {oldest}, too old for step {step}");
        debug!(group = %group.group, epoch = %group.epoch, detail, "group is stale");
        self.give_back(GivenBack {
            group: group.group,
            epoch: group.epoch,
            purpose: group.purpose,
            reason: ReturnReason::Stale,
            detail,
        })
        .await;
    }

    async fn give_back(&self, given: GivenBack) {
        let group = given.group;
        if self.0.returns.send(given).await.is_err() {
            debug!(%group, "not given back: the process is stopping");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the coordinator of every group that was given back, in order, until all senders are gone.
///
/// # Errors
/// The coordinator does not take it: the group would never be dealt again.
pub async fn return_groups(
    mut queue: mpsc::Receiver<GivenBack>,
    coordinator: CoordinatorClient,
    member: MemberId,
) -> anyhow::Result<()> {
    while let Some(given) = queue.recv().await {
        let GivenBack { group, epoch, purpose, reason, detail } = given;
        let returned = ReturnedGroup { member, group, epoch, purpose, reason, detail };
        retry(RetryPolicy::default(), "giving a group back", || {
            let (mut coordinator, returned) = (coordinator.clone(), returned.clone());
            async move {
                let outcome = coordinator.return_group(returned).await;
                outcome.map_err(|e| match e.code.retryable() {
                    true => Attempt::Again(e),
                    false => Attempt::Stop(e),
                })
            }
        })
        .await?;
    }
    Ok(())
}

fn receipt(group: GroupId, epoch: Epoch, code: ReceiptCode, reason: String) -> Receipt {
    let label = match code {
        ReceiptCode::Accepted => "accepted",
        ReceiptCode::Duplicate => "duplicate",
        ReceiptCode::Refused => "refused",
        ReceiptCode::Replaced => "replaced",
    };
    metrics::GROUPS.increment(1, &[("receipt", label)]);
    Receipt { group, epoch, code, reason }
}

#[cfg(test)]
mod tests;
