//! A model of an actor: it asks for work, writes for a while, delivers to the rank that a group
//! belongs to, and reports. It fails, is late and forgets, as the seed says.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use anyhow::Context;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::{
    Completion, CoordinatorClient, Directive, LeaseAsk, Registration, ReturnReason, ReturnedGroup,
    Role, WorkItem,
};
use runtime::within;
use tokio::sync::watch;
use types::{Generation, MemberId, PolicyVersion, Purpose};

use super::desk::{Answer, Copy};
use super::learner;
use super::learner::check_weights;
use super::net::{self, CALL, insist};
use super::world::{SAMPLES, World};
use crate::fixtures::{Script, group};

/// Groups in hand.
const ROOM: u32 = 3;
const FAILURES_MAX: u32 = 30;
const WEIGHTS_MAX: u64 = 1 << 20;

pub(super) fn name(index: u32) -> &'static str {
    ["actor-0", "actor-1", "actor-2"][index as usize]
}

pub(super) async fn act(world: Rc<World>, index: u32) -> turmoil::Result {
    loop {
        let over = live(&world, index).await;
        world.oracle().over(name(index), &over);
        world.pause(20..200).await;
    }
}

/// One process.
async fn live(world: &World, index: u32) -> anyhow::Result<()> {
    let mut coordinator = net::coordinator().await?;
    let member = MemberId(world.unique());
    let registration = Registration {
        member,
        role: Role::Actor,
        index: Some(index),
        address: String::new(),
        admin_address: String::new(),
        ring_address: String::new(),
        generation: Generation(0),
    };
    coordinator.register(registration.clone()).await?;
    let (sender, directives) = watch::channel(Directive::default());
    let actor = Actor { world, index, member, coordinator: coordinator.clone(), directives };
    tokio::select! {
        biased;
        over = net::follow(world, coordinator, registration, sender) => over,
        over = actor.work() => over,
    }
}

struct Actor<'a> {
    world: &'a World,
    index: u32,
    member: MemberId,
    coordinator: CoordinatorClient,
    directives: watch::Receiver<Directive>,
}

impl Actor<'_> {
    async fn work(&self) -> anyhow::Result<()> {
        let (mut jobs, mut done) = (FuturesUnordered::new(), Vec::new());
        let (mut applied, mut failures) = (None, 0);
        loop {
            beside(&mut jobs, &mut done, self.world.pause(10..100)).await;
            let wanted = self.directives.borrow().version;
            if wanted.is_some() && applied != wanted && !self.world.once_in(3) {
                applied = beside(&mut jobs, &mut done, self.fetch(wanted)).await.or(applied);
            }
            let ask = LeaseAsk {
                member: self.member,
                max_rollouts: ROOM.saturating_sub(jobs.len() as u32) * SAMPLES,
                applied_version: applied,
                completed: done.clone(),
            };
            let (told, room) = (ask.completed.len(), ask.max_rollouts);
            let mut coordinator = self.coordinator.clone();
            match beside(&mut jobs, &mut done, coordinator.lease(ask)).await {
                Ok(items) => {
                    failures = 0;
                    done.drain(..told);
                    if items.is_empty() {
                        continue;
                    }
                    let version = applied.expect("no work comes without weights");
                    let ask = (name(self.index), version.step, room);
                    self.world.oracle().granted(ask, &items);
                    jobs.extend(items.into_iter().map(|item| self.finish(item, version)));
                }
                Err(error) if !net::may_pass(error.code) => return Err(error.into()),
                Err(error) => {
                    failures += 1;
                    anyhow::ensure!(failures < FAILURES_MAX, "no lease: {error}");
                }
            }
        }
    }

    async fn fetch(&self, wanted: Option<PolicyVersion>) -> Option<PolicyVersion> {
        let mut coordinator = self.coordinator.clone();
        let fetched = coordinator.fetch_weights(wanted?, WEIGHTS_MAX).await;
        let (manifest, bytes) = fetched.ok()?;
        check_weights(manifest.version, &bytes);
        Some(manifest.version)
    }

    /// Writes one group and brings it where it belongs.
    async fn finish(&self, item: WorkItem, version: PolicyVersion) -> Option<Completion> {
        let slow = self.world.once_in(10);
        self.world.pause(if slow { 100..1_500 } else { 5..120 }).await;
        if self.world.once_in(12) {
            self.give_up(&item).await;
            return None;
        }
        if item.purpose == Purpose::Eval {
            let groups = vec![group(&item, Script::right(version))];
            let report = async || {
                let mut coordinator = self.coordinator.clone();
                coordinator.report_eval(self.member, groups.clone()).await
            };
            let _ = insist(self.world, report).await;
            return None;
        }
        let copy = Copy { group: item.group, epoch: item.epoch, version };
        for _ in 0..8 {
            match self.deliver(copy).await {
                Ok((Answer::Accepted | Answer::Duplicate, generation)) => {
                    return Some(Completion { lease: item.lease, generation });
                }
                Ok((Answer::Refused | Answer::Replaced, _)) => return None,
                Err(_) => self.world.pause(20..200).await,
            }
        }
        None
    }

    async fn deliver(&self, copy: Copy) -> anyhow::Result<(Answer, Generation)> {
        let address = {
            let known = self.directives.borrow();
            let formation = known.formation.as_ref().context("no ranks")?;
            let rank = &formation.ranks[copy.group.rank(formation.ranks.len())];
            rank.address.clone()
        };
        within("a receipt", CALL, learner::offer(&address, copy)).await?
    }

    async fn give_up(&self, item: &WorkItem) {
        let returned = ReturnedGroup {
            member: self.member,
            group: item.group,
            epoch: item.epoch,
            purpose: item.purpose,
            reason: ReturnReason::Failed,
            detail: String::new(),
        };
        let give = async || self.coordinator.clone().return_group(returned.clone()).await;
        let _ = insist(self.world, give).await;
    }
}

/// Awaits one thing while jobs go on.
async fn beside<T>(
    jobs: &mut FuturesUnordered<impl Future<Output = Option<Completion>>>,
    done: &mut Vec<Completion>,
    awaited: impl Future<Output = T>,
) -> T {
    let mut awaited = pin!(awaited);
    loop {
        tokio::select! {
            biased;
            result = &mut awaited => return result,
            Some(completion) = jobs.next() => done.extend(completion),
        }
    }
}
