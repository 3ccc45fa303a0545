//! A model of a rank's process: actors bring groups, the coordinator says who the ranks are, and
//! what is given back goes to it. Steps are `ring`'s.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::{CoordinatorClient, Directive, Registration, ReturnedGroup, Role};
use safetensors::tensor::{Dtype, TensorView, serialize};
use tokio::sync::watch;
use turmoil::net::{TcpListener, TcpStream};
use types::{Epoch, Generation, GroupId, MemberId, PolicyVersion, Purpose, WeightManifest};

use super::desk::{Answer, Copy, Desk};
use super::net::{self, dial, insist, listen, receive, send};
use super::ring::Rank;
use super::world::{GROUPS, History, STEPS, World};
use crate::weight_store::manifest_of;

const GROUPS_PORT: u16 = 7100;
const RING_PORT: u16 = 7200;
/// How often a rank looks whether there is something to do.
pub(super) const LOOK: Duration = Duration::from_millis(10);

pub(super) async fn learn(world: Rc<World>, name: &'static str, index: u32) -> turmoil::Result {
    loop {
        let over = live(&world, name, index).await;
        world.oracle().over(name, &over);
        world.pause(20..200).await;
    }
}

/// One process.
async fn live(world: &World, name: &'static str, index: u32) -> anyhow::Result<()> {
    let (groups, ring) = (listen(GROUPS_PORT).await?, listen(RING_PORT).await?);
    let mut coordinator = net::coordinator().await?;
    let member = MemberId(world.unique());
    let registration = Registration {
        member,
        role: Role::Learner,
        index: Some(index),
        address: format!("{name}:{GROUPS_PORT}"),
        admin_address: String::new(),
        ring_address: format!("{name}:{RING_PORT}"),
        generation: Generation(0),
    };
    coordinator.register(registration.clone()).await?;
    let (sender, directives) = watch::channel(Directive::default());
    let desk = RefCell::new(Desk::default());
    let rank = Rank {
        world,
        name,
        index: index as usize,
        member,
        coordinator: coordinator.clone(),
        directives,
        ring,
        desk: &desk,
        hand: RefCell::new((History::new(), PolicyVersion::default())),
        committed: Cell::new(0),
    };
    tokio::select! {
        biased;
        over = net::follow(world, coordinator.clone(), registration, sender) => over,
        over = take_groups(world, groups, &desk) => over,
        over = give_back(world, (coordinator, member), &desk) => over,
        over = rank.train() => over,
    }
}

async fn take_groups(
    world: &World,
    listener: TcpListener,
    desk: &RefCell<Desk>,
) -> anyhow::Result<()> {
    let mut lines = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => lines.push(take_group(world, accepted?.0, desk)),
            Some(_) = lines.next() => {}
        }
    }
}

async fn take_group(
    world: &World,
    mut stream: TcpStream,
    desk: &RefCell<Desk>,
) -> anyhow::Result<()> {
    let numbers: [u64; 3] = receive(&mut stream).await?.try_into().unwrap();
    let [group, epoch, version] = numbers;
    let version = PolicyVersion::unpack(version);
    let copy = Copy { group: GroupId(group), epoch: Epoch(epoch as u32), version };
    let (answer, generation) = desk.borrow_mut().receive(copy, world);
    send(&mut stream, &[answer.number(), generation.0.into()]).await
}

/// An actor's side of it.
pub(super) async fn offer(address: &str, copy: Copy) -> anyhow::Result<(Answer, Generation)> {
    let Copy { group, epoch, version } = copy;
    let mut stream = dial(address).await?;
    send(&mut stream, &[group.0, epoch.0.into(), version.packed()]).await?;
    let numbers: [u64; 2] = receive(&mut stream).await?.try_into().unwrap();
    Ok((Answer::numbered(numbers[0]), Generation(numbers[1] as u32)))
}

async fn give_back(
    world: &World,
    (coordinator, member): (CoordinatorClient, MemberId),
    desk: &RefCell<Desk>,
) -> anyhow::Result<()> {
    loop {
        let next = desk.borrow_mut().returns.pop_front();
        let Some((group, epoch, reason)) = next else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let (purpose, detail) = (Purpose::Train, String::new());
        let returned = ReturnedGroup { member, group, epoch, purpose, reason, detail };
        insist(world, async || coordinator.clone().return_group(returned.clone()).await).await?;
    }
}

/// Weights that say how often each group was learnt from.
pub(super) fn weights(version: PolicyVersion, history: &History) -> (WeightManifest, Vec<u8>) {
    let mut times = vec![0.0_f32; (u64::from(STEPS) * GROUPS) as usize];
    history.iter().flat_map(|step| step.keys()).for_each(|group| times[*group as usize] += 1.0);
    let data: Vec<u8> = times.iter().flat_map(|times| times.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![times.len()], &data).unwrap();
    let bytes = serialize([("times", view)], None).unwrap();
    (manifest_of(version, &bytes).unwrap(), bytes)
}

/// Weights after so many steps have learnt from the groups of exactly those, once.
pub(super) fn check_weights(version: PolicyVersion, bytes: &[u8]) {
    let steps = (0..version.step).map(super::world::groups_of);
    let due: History =
        steps.map(|groups| groups.map(|group| (group, Epoch(0))).collect()).collect();
    assert_eq!(bytes, weights(version, &due).1, "weights {version}");
}
