//! Where received groups wait for their step: admission and assembler behind one lock, and the
//! queue of groups that go back to the coordinator. The wire is `ingest`'s, training the loop's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use member::Tie;
use proto::{Receipt, ReceiptCode, ReturnReason, ReturnedGroup};
use runtime::waiting;
use telemetry::Health;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};
use types::{Epoch, Generation, GroupId, PolicyVersion, Purpose, RolloutGroup};

use crate::admission::{Admission, Lineage};
use crate::assembler::{Assembler, Counts, Offer, Window};
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
    state: Mutex<State>,
    changed: Notify,
    returns: mpsc::Sender<GivenBack>,
}

#[derive(Default)]
struct State {
    /// Of the present ranks or, while they form anew, of the last ones.
    generation: Generation,
    open: Option<Open>,
}

/// What is there while the ranks are.
struct Open {
    assembler: Assembler,
    lineage: Lineage,
}

impl State {
    /// The training thread only asks between `begin` and `suspend`.
    fn assembler(&mut self) -> &mut Assembler {
        let open = self.open.as_mut().expect("the ranks have begun and are not suspended");
        &mut open.assembler
    }
}

impl Inbox {
    /// `returns` takes what is given back; see [`return_groups`]. Nothing is taken before
    /// [`Self::begin`].
    #[must_use]
    pub fn new(
        admission: Admission,
        refill: Option<Refill>,
        returns: mpsc::Sender<GivenBack>,
    ) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Parts { admission, refill, state, changed, returns }))
    }

    /// The ranks of a generation go on from this version. What was taken before is dropped: the
    /// coordinator deals it again.
    pub fn begin(&self, version: PolicyVersion, window: Window) {
        let assembler = Assembler::new(window, version.step);
        let lineage = Lineage { published: version, resumed_step: version.step };
        let mut state = self.lock();
        state.generation = version.generation;
        state.open = Some(Open { assembler, lineage });
    }

    /// The ranks form anew: until they begin nothing is taken.
    pub fn suspend(&self) {
        self.lock().open = None;
    }

    /// From now on rollouts of this version may arrive.
    pub fn announce(&self, version: PolicyVersion) {
        if let Some(open) = &mut self.lock().open {
            open.lineage.published = version;
        }
    }

    /// Decides on one group. A refused one is given back here, the actor only drops it.
    pub async fn receive(&self, group: RolloutGroup) -> Receipt {
        let (id, epoch, purpose) = (group.group, group.epoch, group.purpose);
        let judged = self.lock().open.as_mut().map(|open| {
            let generation = open.lineage.published.generation;
            (open.assembler.judge(id, epoch), open.lineage, generation)
        });
        let Some((early, lineage, generation)) = judged else {
            let reason = "the learner's ranks are not all there".to_owned();
            return self.refuse(id, epoch, purpose, reason).await;
        };
        let offer = match early {
            Offer::Accepted => match self.0.admission.check(&group, &lineage) {
                Ok(()) if self.0.refill.is_some_and(|refill| refill.replaces(&group)) => {
                    let offer = self.offer(generation, |assembler| assembler.pass_over(id, epoch));
                    if offer == Some(Offer::Accepted) {
                        return self.replace(id, epoch, purpose).await;
                    }
                    offer
                }
                Ok(()) => self.offer(generation, |assembler| assembler.offer(group)),
                Err(refusal) => {
                    return self.refuse(id, epoch, purpose, refusal.to_string()).await;
                }
            },
            other => Some(other),
        };
        let Some(offer) = offer else {
            let reason = "the learner's ranks have formed anew".to_owned();
            return self.refuse(id, epoch, purpose, reason).await;
        };
        match offer {
            Offer::Accepted => receipt(id, epoch, ReceiptCode::Accepted, String::new(), generation),
            Offer::Duplicate => {
                receipt(id, epoch, ReceiptCode::Duplicate, String::new(), generation)
            }
            Offer::Ahead => {
                let reason = "its step is not open yet: the learner takes the current step and \
                              staleness.max_versions more"
                    .to_owned();
                self.refuse(id, epoch, purpose, reason).await
            }
            Offer::Elsewhere { rank } => {
                // Not given back: the actor is to send it there.
                let reason = format!("it belongs to rank {rank}");
                receipt(id, epoch, ReceiptCode::Refused, reason, generation)
            }
        }
    }

    /// Offers a group to the ranks that it was checked for; `None` where they are no more.
    fn offer(
        &self,
        generation: Generation,
        offer: impl FnOnce(&mut Assembler) -> Offer,
    ) -> Option<Offer> {
        let mut state = self.lock();
        let same = state.generation == generation;
        let open = state.open.as_mut().filter(|_| same)?;
        let offer = offer(&mut open.assembler);
        metrics::INBOX.set(open.assembler.held() as f64, &[]);
        if open.assembler.missing() == 0 {
            self.0.changed.notify_one();
        }
        Some(offer)
    }

    /// Another problem is to take the group's place.
    async fn replace(&self, group: GroupId, epoch: Epoch, purpose: Purpose) -> Receipt {
        let (reason, detail) = (ReturnReason::Replaced, "it teaches nothing".to_owned());
        debug!(%group, %epoch, detail, "group is replaced");
        self.give_back(GivenBack { group, epoch, purpose, reason, detail }).await;
        let generation = self.lock().generation;
        receipt(group, epoch, ReceiptCode::Replaced, String::new(), generation)
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
        let generation = self.lock().generation;
        receipt(group, epoch, ReceiptCode::Refused, detail, generation)
    }

    /// All groups of the current step, once they are there and fresh; stale ones are given back.
    /// The caller bounds the wait by dropping the future. Every look at the groups is a beat.
    pub async fn next_batch(&self, health: &Health) -> Vec<RolloutGroup> {
        let mut looks: u32 = 0;
        let mut told = None;
        loop {
            let changed = self.0.changed.notified();
            let (formed, step, missing) = {
                let mut state = self.lock();
                let assembler = state.assembler();
                let formed = assembler.form();
                (formed, assembler.step(), assembler.missing())
            };
            for group in &formed.stale {
                self.give_stale_back(group, step).await;
            }
            if let Some(batch) = formed.batch {
                metrics::INBOX.set(self.lock().assembler().held() as f64, &[]);
                return batch;
            }
            health.beat();
            if told.as_ref().is_none_or(|(known, _)| *known != missing) {
                let what = format!("{missing} more groups of step {}", step + 1);
                told = Some((missing, waiting(what, None)));
            }
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
        self.lock().assembler().take_counts()
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
pub async fn return_groups(mut queue: mpsc::Receiver<GivenBack>, tie: Tie) -> anyhow::Result<()> {
    while let Some(given) = queue.recv().await {
        tie.insist("giving a group back", |mut coordinator, member| {
            let GivenBack { group, epoch, purpose, reason, detail } = given.clone();
            let returned = ReturnedGroup { member, group, epoch, purpose, reason, detail };
            async move { coordinator.return_group(returned).await }
        })
        .await?;
    }
    Ok(())
}

fn receipt(
    group: GroupId,
    epoch: Epoch,
    code: ReceiptCode,
    reason: String,
    generation: Generation,
) -> Receipt {
    let label = match code {
        ReceiptCode::Accepted => "accepted",
        ReceiptCode::Duplicate => "duplicate",
        ReceiptCode::Refused => "refused",
        ReceiptCode::Replaced => "replaced",
    };
    metrics::GROUPS.increment(1, &[("receipt", label)]);
    Receipt { group, epoch, code, reason, generation }
}

#[cfg(test)]
mod tests;
