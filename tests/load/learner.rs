//! A learner that learns nothing: it takes each group once, and commits a step as soon as all of its
//! groups are there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use coordinator::weight_store::manifest_of;
use miniature::{TensorSpec, random_safetensors};
use proto::{ChannelSettings, CoordinatorClient, Role, StepRecord};
use runtime::TaskGroup;
use tokio::sync::Notify;
use types::{Generation, GroupId, MemberId, PolicyVersion};

use crate::figures::{Figures, Rpc};
use crate::member::Member;

/// 1 KiB: moving weights is measured elsewhere.
const WEIGHTS: [usize; 2] = [16, 16];

/// Where actors bring groups.
#[derive(Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Default)]
struct State {
    generation: Generation,
    held: BTreeSet<GroupId>,
    steps: u32,
}

impl Desk {
    /// The generation that took the group.
    pub(crate) fn deliver(&self, group: GroupId) -> Generation {
        let mut state = self.lock();
        state.held.insert(group);
        self.came.notify_one();
        state.generation
    }

    /// Committed so far.
    pub(crate) fn steps(&self) -> u32 {
        self.lock().steps
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups of the next step, once all are there; they are consumed then.
    async fn take(&self, groups_per_step: u64) -> Vec<GroupId> {
        loop {
            let came = self.came.notified();
            {
                let mut state = self.lock();
                // Copies of groups that are consumed may still come.
                let first = u64::from(state.steps) * groups_per_step;
                state.held = state.held.split_off(&GroupId(first));
                let later = state.held.split_off(&GroupId(first + groups_per_step));
                if state.held.len() as u64 == groups_per_step {
                    let groups = std::mem::replace(&mut state.held, later);
                    return groups.into_iter().collect();
                }
                state.held.extend(later);
            }
            came.await;
        }
    }
}

pub(crate) async fn start(
    tasks: &TaskGroup,
    (address, channel): (&str, &ChannelSettings),
    desk: Arc<Desk>,
    figures: Arc<Figures>,
    groups_per_step: u64,
) -> anyhow::Result<()> {
    let member = Member::join(address, channel, (Role::Learner, 0), tasks).await?;
    let stop = tasks.shutdown().wait();
    tasks.spawn("learner", async move {
        let (id, coordinator) = (member.id, member.coordinator.clone());
        tokio::select! {
            () = stop => Ok(()),
            never = Member::beat(id, coordinator, Arc::clone(&figures)) => never,
            never = train(member, &desk, &figures, groups_per_step) => never,
        }
    });
    Ok(())
}

async fn train(
    member: Member,
    desk: &Desk,
    figures: &Figures,
    groups_per_step: u64,
) -> anyhow::Result<()> {
    let Member { id, mut coordinator, mut directives } = member;
    let formed = directives.wait_for(|known| known.formation.is_some()).await?.clone();
    let generation = formed.formation.context("it was just there")?.generation;
    desk.lock().generation = generation;
    publish(&mut coordinator, PolicyVersion { generation, step: 0 }, figures).await?;
    loop {
        let groups = desk.take(groups_per_step).await;
        let step = desk.steps() + 1;
        let version = PolicyVersion { generation, step };
        publish(&mut coordinator, version, figures).await?;
        let record = record(id, version, groups);
        let commit = figures.timed(Rpc::CommitStep, coordinator.commit_step(record)).await;
        commit.with_context(|| format!("step {step} is not committed"))?;
        desk.lock().steps = step;
    }
}

async fn publish(
    coordinator: &mut CoordinatorClient,
    version: PolicyVersion,
    figures: &Figures,
) -> anyhow::Result<()> {
    let specs = [TensorSpec::new("w", &WEIGHTS, 0.0, 1.0)];
    let bytes = random_safetensors(&specs, u64::from(version.step))?;
    let manifest = manifest_of(version, &bytes)?;
    let publish = coordinator.publish_weights(manifest, &bytes);
    figures.timed(Rpc::PublishWeights, publish).await.context("weights are not taken")
}

fn record(member: MemberId, version: PolicyVersion, groups: Vec<GroupId>) -> StepRecord {
    StepRecord {
        member,
        step: version.step,
        version,
        groups_trained: groups.len() as u32,
        groups,
        values: [("loss".to_owned(), 0.5)].into(),
        ..StepRecord::default()
    }
}
