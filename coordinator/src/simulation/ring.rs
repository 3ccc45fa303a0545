//! A model of training: the ranks of a generation come to one state, and then take steps. Rank 0
//! leads; the others say what they have and are told what a step consists of.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::{CoordinatorClient, Directive, ErrorCode, Formation, RpcError, StepRecord};
use runtime::within;
use tokio::sync::watch;
use turmoil::net::{TcpListener, TcpStream};
use types::{Epoch, Generation, GroupId, MemberId, PolicyVersion};

use super::desk::Desk;
use super::learner::{LOOK, weights};
use super::net::{CALL, dial, insist, receive, send};
use super::world::{GROUPS, History, STEPS, World};

/// Links lose for good what is on them when they are cut: the wait for another rank must end.
const BARRIER: Duration = Duration::from_secs(4);

pub(super) struct Rank<'a> {
    pub(super) world: &'a World,
    pub(super) name: &'static str,
    pub(super) index: usize,
    pub(super) member: MemberId,
    pub(super) coordinator: CoordinatorClient,
    pub(super) directives: watch::Receiver<Directive>,
    pub(super) ring: TcpListener,
    pub(super) desk: &'a RefCell<Desk>,
    /// What this rank has learnt, and the version on which its ranks last agreed.
    pub(super) hand: RefCell<(History, PolicyVersion)>,
    /// Steps that rank 0 knows to be committed, or from which its ranks went on.
    pub(super) committed: Cell<u32>,
}

/// These ranks cannot go on; others may.
#[derive(Debug)]
struct Lost(String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

impl Rank<'_> {
    /// # Errors
    /// What no other ranks would mend.
    pub(super) async fn train(&self) -> anyhow::Result<()> {
        let mut last = Generation(0);
        loop {
            let formation = self.later_than(last).await?;
            last = formation.generation;
            let (world, name) = (self.world, self.name);
            world.oracle().tell(format_args!("{name}: takes part in {last}"));
            let outcome = self.take_part(&formation).await;
            self.desk.borrow_mut().suspend();
            world.oracle().over(name, &outcome);
            match outcome {
                Err(error) if error.is::<Lost>() => {
                    let reason = error.to_string();
                    if !self.superseded(last) {
                        self.insist(async |mut coordinator| {
                            coordinator.reform(self.member, last, reason.clone()).await
                        })
                        .await?;
                    }
                }
                outcome => outcome?,
            }
        }
    }

    fn superseded(&self, generation: Generation) -> bool {
        present(&self.directives.borrow()) != Some(generation)
    }

    /// What is refused because other ranks have formed is lost, and nothing worse.
    async fn insist(
        &self,
        mut call: impl AsyncFnMut(CoordinatorClient) -> Result<(), RpcError>,
    ) -> anyhow::Result<()> {
        match insist(self.world, async || call(self.coordinator.clone()).await).await {
            Err(error) if error.code == ErrorCode::Superseded => {
                Err(Lost(error.to_string()).into())
            }
            answer => Ok(answer?),
        }
    }

    async fn later_than(&self, last: Generation) -> anyhow::Result<Formation> {
        let mut known = self.directives.clone();
        let later = |known: &Directive| formation_after(known, last).is_some();
        let known = known.wait_for(later).await.context("lost the coordinator")?;
        formation_after(&known, last).context("it was just there")
    }

    /// A wait for other ranks or for groups ends with the ranks.
    async fn wait<T>(
        &self,
        formation: &Formation,
        awaited: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut known = self.directives.clone();
        tokio::select! {
            biased;
            _ = known.wait_for(|known| present(known) != Some(formation.generation)) => {
                Err(Lost("superseded".to_owned()).into())
            }
            done = awaited => done.map_err(|error| Lost(error.to_string()).into()),
        }
    }

    async fn take_part(&self, formation: &Formation) -> anyhow::Result<()> {
        let size = formation.ranks.len();
        let meet = within("the ranks", CALL * 2, self.meet(formation));
        let mut lines = self.wait(formation, async { meet.await? }).await?;
        let version = self.align(formation, &mut lines).await?;
        self.world.oracle().tell(format_args!("{}: goes on from {version}", self.name));
        self.desk.borrow_mut().begin(version, self.index, size);
        if self.index == 0 {
            self.publish(version).await?;
        }
        for step in version.step + 1..=STEPS {
            let version = PolicyVersion { step, ..version };
            let own = self.wait(formation, async { Ok(self.own_groups().await) }).await?;
            let groups = self.wait(formation, self.gather(own, &mut lines)).await?;
            self.learn_from(version, groups);
            if self.index == 0 {
                self.account_for(version).await?;
            }
            self.desk.borrow_mut().announce(version);
        }
        Ok(())
    }

    /// Rank 0 calls the others, who wait for it.
    async fn meet(&self, formation: &Formation) -> anyhow::Result<Vec<TcpStream>> {
        let generation = u64::from(formation.generation.0);
        let mut lines = Vec::new();
        if self.index > 0 {
            loop {
                let (mut line, _) = self.ring.accept().await?;
                // Others may call from a generation that is no more.
                if let Ok(Ok(greeting)) = within("a greeting", CALL, receive(&mut line)).await
                    && greeting == [generation]
                {
                    return Ok(vec![line]);
                }
            }
        }
        for rank in &formation.ranks[1..] {
            let mut line = dial(&rank.ring_address).await?;
            send(&mut line, &[generation]).await?;
            lines.push(line);
        }
        Ok(lines)
    }

    /// All have one state: that of the last committed step, or the newest checkpoint's before it.
    async fn align(
        &self,
        formation: &Formation,
        lines: &mut [TcpStream],
    ) -> anyhow::Result<PolicyVersion> {
        let aligned = self.wait(formation, async {
            let (history, agreed) = self.hand.borrow().clone();
            if self.index > 0 {
                let line = &mut lines[0];
                let offer = [vec![agreed.packed()], flat(&history)].concat();
                send(line, &offer).await?;
                return Ok(history_of(&within("a state", CALL, receive(line)).await??));
            }
            let committed = formation.committed.max(self.committed.get());
            let mut offers = vec![(agreed, history)];
            for line in &mut *lines {
                let offer = within("an offer", CALL, receive(line)).await??;
                offers.push((PolicyVersion::unpack(offer[0]), history_of(&offer[1..])));
            }
            let current = offers.into_iter().filter(|(agreed, _)| agreed.step == committed);
            let state = current.max_by_key(|(agreed, _)| *agreed).map(|(_, history)| history);
            let state = state.unwrap_or_else(|| self.newest_checkpoint(committed));
            for line in lines {
                send(line, &flat(&state)).await?;
            }
            Ok(state)
        });
        let state = aligned.await?;
        let generation = formation.generation;
        let version = PolicyVersion { generation, step: state.len() as u32 };
        self.hand.replace((state, version));
        self.committed.set(version.step);
        Ok(version)
    }

    /// Of a step that is committed; later ones were never made.
    fn newest_checkpoint(&self, committed: u32) -> History {
        let mut checkpoints = self.world.checkpoints();
        checkpoints.retain(|step, _| *step <= committed);
        checkpoints.last_key_value().map(|(_, history)| history.clone()).unwrap_or_default()
    }

    async fn own_groups(&self) -> BTreeMap<u64, Epoch> {
        loop {
            let formed = self.desk.borrow_mut().form();
            match formed {
                Some(own) => return own,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// All ranks' groups of a step.
    async fn gather(
        &self,
        own: BTreeMap<u64, Epoch>,
        lines: &mut [TcpStream],
    ) -> anyhow::Result<BTreeMap<u64, Epoch>> {
        let mut all = vec![own];
        if self.index > 0 {
            send(&mut lines[0], &flat(&all)).await?;
            let told = within("the groups of a step", BARRIER, receive(&mut lines[0])).await??;
            return history_of(&told).pop().context("the groups of a step");
        }
        for line in &mut *lines {
            let theirs = within("their groups", BARRIER, receive(line)).await??;
            all.extend(history_of(&theirs));
        }
        let groups: BTreeMap<u64, Epoch> = all.into_iter().flatten().collect();
        ensure!(groups.len() as u64 == GROUPS, "{} groups make no step", groups.len());
        for line in lines {
            send(line, &flat(&vec![groups.clone()])).await?;
        }
        Ok(groups)
    }

    fn learn_from(&self, version: PolicyVersion, groups: BTreeMap<u64, Epoch>) {
        let mut hand = self.hand.borrow_mut();
        hand.0.push(groups);
        hand.1 = version;
        if self.index == 0 {
            self.world.oracle().trained(self.member, &hand.0);
        }
    }

    /// Checkpoint, weights, commit; older checkpoints go last.
    async fn account_for(&self, version: PolicyVersion) -> anyhow::Result<()> {
        let history = self.hand.borrow().0.clone();
        let groups = history.last().map(|step| step.keys().copied().map(GroupId).collect());
        let written = self.world.once_in(2);
        if written {
            self.world.checkpoints().insert(version.step, history);
        }
        self.publish(version).await?;
        let record = StepRecord {
            member: self.member,
            step: version.step,
            version,
            groups: groups.unwrap_or_default(),
            groups_trained: GROUPS as u32,
            ..StepRecord::default()
        };
        self.insist(async |mut coordinator| coordinator.commit_step(record.clone()).await).await?;
        self.committed.set(version.step);
        self.world.oracle().committed(self.member, &record);
        if written {
            self.world.checkpoints().retain(|step, _| *step >= version.step);
        }
        Ok(())
    }

    async fn publish(&self, version: PolicyVersion) -> anyhow::Result<()> {
        let (manifest, bytes) = weights(version, &self.hand.borrow().0);
        self.insist(async |mut coordinator| {
            coordinator.publish_weights(manifest.clone(), &bytes).await
        })
        .await?;
        self.world.oracle().published(self.member, version);
        Ok(())
    }
}

fn present(known: &Directive) -> Option<Generation> {
    known.formation.as_ref().map(|formation| formation.generation)
}

fn formation_after(known: &Directive, last: Generation) -> Option<Formation> {
    known.formation.clone().filter(|formation| formation.generation > last)
}

/// Steps one after the other, each as its groups with their epochs.
fn flat(history: &History) -> Vec<u64> {
    let mut numbers = Vec::new();
    for step in history {
        numbers.push(step.len() as u64);
        numbers.extend(step.iter().flat_map(|(group, epoch)| [*group, u64::from(epoch.0)]));
    }
    numbers
}

fn history_of(mut numbers: &[u64]) -> History {
    let mut history = History::new();
    while let Some((count, rest)) = numbers.split_first() {
        let (step, rest) = rest.split_at(2 * *count as usize);
        let pairs = step.as_chunks().0.iter();
        history.push(pairs.map(|[group, epoch]| (*group, Epoch(*epoch as u32))).collect());
        numbers = rest;
    }
    history
}
