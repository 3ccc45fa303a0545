//! Sees all, and says what must hold: at every answer, at every look, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use proto::{JournalEntry, StepRecord, WorkItem};
use types::{Epoch, Generation, GroupId, MemberId, PolicyVersion, Purpose};

use super::Story;
use super::world::{GROUPS, History, STALENESS, STEPS, groups_of};
use crate::hub::Hub;
use crate::state::{Event, Phase};

#[derive(Default)]
pub(super) struct Oracle {
    /// The journal's, as it lies there.
    disk: Vec<JournalEntry>,
    /// All that ever was on disk.
    ever: Vec<JournalEntry>,
    hub: Option<Hub>,
    /// Steps committed, as told by the events of the present hub.
    told: u32,
    published: Option<PolicyVersion>,
    /// Groups and evaluation groups that an actor was given, under which epoch and by which hub.
    granted: BTreeSet<(GroupId, Epoch)>,
    /// Who was answered as rank 0, by generation.
    holders: BTreeMap<Generation, MemberId>,
    /// What each process that was rank 0 has learnt from.
    trained: BTreeMap<MemberId, History>,
    trace: DefaultHasher,
    lives: u32,
    undone: u32,
    verbose: bool,
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self { verbose: super::asked("TANDEM_SIMULATION_SEED").is_some(), ..Self::default() }
    }

    /// Every host tells what it does.
    pub(super) fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        let text = what.to_string();
        text.hash(&mut self.trace);
        if self.verbose {
            let now = turmoil::sim_elapsed().unwrap_or_default().as_millis();
            eprintln!("{now:>6} {text}");
        }
    }

    /// Without a backtrace, which is not the seed's.
    pub(super) fn over(&mut self, name: &str, outcome: &anyhow::Result<()>) {
        let why =
            outcome.as_ref().map_or_else(|error| format!("{error:#}"), |()| "done".to_owned());
        self.tell(format_args!("{name} stops: {why}"));
    }

    pub(super) fn disk(&self) -> &[JournalEntry] {
        &self.disk
    }

    /// Entries reached the disk.
    pub(super) fn written(&mut self, entries: &[JournalEntry]) {
        for entry in entries {
            self.tell(format_args!("disk: {entry:?}"));
            if let JournalEntry::Committed { record, .. } = entry {
                let formed = last_formed(&self.ever);
                let version = record.version;
                assert_eq!(Some(version.generation), formed, "a step of ranks that are no more");
                assert_eq!(record.step, version.step);
            }
            self.ever.push(entry.clone());
        }
        self.disk.extend_from_slice(entries);
    }

    /// Whether this is not the first coordinator.
    pub(super) fn has_lived(&self) -> bool {
        self.lives > 0
    }

    /// A coordinator went on from what the disk leaves.
    pub(super) fn resumed(&mut self, hub: &Hub, compacted: Vec<JournalEntry>) {
        self.tell(format_args!("coordinator: begins with {} entries", compacted.len()));
        let (committed, consumed) = hub.with(|state| (state.committed(), state.totals().consumed));
        assert_eq!(committed, surviving_steps(&self.ever).len() as u32, "commits are forgotten");
        assert_eq!(consumed, u64::from(committed) * GROUPS);
        (self.disk, self.told) = (compacted, committed);
        self.hub = Some(hub.clone());
        self.lives += 1;
    }

    /// An actor with weights of this step was answered that had room for so many rollouts.
    pub(super) fn granted(&mut self, (name, step, room): (&str, u32, u32), items: &[WorkItem]) {
        let rollouts: u32 = items.iter().map(|item| item.samples).sum();
        assert!(rollouts <= room, "{rollouts} rollouts where {room} fit");
        for item in items.iter().filter(|item| item.purpose == Purpose::Train) {
            let (group, epoch) = (item.group, item.epoch);
            self.tell(format_args!("{name} has {group} under {epoch}"));
            assert!(group.0 < u64::from(step + STALENESS + 1) * GROUPS, "{group} is too far ahead");
            let entry = JournalEntry::Granted { group, epoch };
            assert!(self.ever.contains(&entry), "{entry:?} was answered before it was on disk");
            assert!(self.granted.insert((group, epoch)), "{entry:?} was dealt twice");
        }
    }

    /// Rank 0 was answered that its version is published.
    pub(super) fn published(&mut self, process: MemberId, version: PolicyVersion) {
        self.hold(process, version.generation);
        let generation = version.generation;
        let formed = |entry: &JournalEntry| matches!(entry, JournalEntry::Formed { generation: of, .. } if *of == generation);
        assert!(self.ever.iter().any(formed), "{version} was answered before it was on disk");
    }

    /// Rank 0 was answered that its step is committed.
    pub(super) fn committed(&mut self, process: MemberId, record: &StepRecord) {
        self.hold(process, record.version.generation);
        let found = self.ever.iter().any(|entry| match entry {
            JournalEntry::Committed { record: of, .. } => of == record,
            _ => false,
        });
        assert!(found, "step {} was answered before it was on disk", record.step);
    }

    fn hold(&mut self, process: MemberId, generation: Generation) {
        let holder = *self.holders.entry(generation).or_insert(process);
        assert_eq!(holder, process, "generation {generation} has two holders");
    }

    /// Rank 0 has taken a step.
    pub(super) fn trained(&mut self, process: MemberId, history: &History) {
        self.trained.insert(process, history.clone());
    }

    /// Looks at the coordinator between two ticks; its phase, if it is up.
    pub(super) fn look(&mut self, now: Duration) -> Option<Phase> {
        let hub = self.hub.clone()?;
        let (events, published, committed, phase, twice) = hub.with(|state| {
            let (phase, twice) = (state.phase().clone(), state.totals().trained_twice);
            (state.take_events(), state.published(), state.committed(), phase, twice)
        });
        let before = self.told;
        for event in &events {
            self.tell(format_args!("{} coordinator: {event:?}", now.as_millis()));
            match event {
                Event::Committed(record) => {
                    assert_eq!(record.step, self.told + 1, "a gap between steps");
                    self.told = record.step;
                }
                Event::RolledBack { step, undone, .. } => {
                    assert_eq!(self.told, step + undone);
                    self.told = *step;
                    self.undone += undone;
                }
                _ => {}
            }
        }
        assert_eq!(self.told, committed, "steps come or go that nobody was told of");
        assert_eq!(twice, 0, "groups were trained twice");
        assert!(!matches!(phase, Phase::Failed(_)), "{phase:?}");
        self.follow(published, before.max(self.told));
        Some(phase)
    }

    /// Versions come one by one; a later generation begins with one that was committed.
    fn follow(&mut self, published: Option<PolicyVersion>, committed: u32) {
        let Some(version) = published else { return };
        if let Some(before) = self.published.replace(version) {
            assert!(version >= before, "{version} is published after {before}");
            if version.generation == before.generation {
                assert!(
                    version.step <= before.step + 1,
                    "a version between {before} and {version}"
                );
            } else {
                assert!(version.step <= committed + 1, "{version} while {committed} are committed");
            }
        }
    }

    /// For whoever asks why a run does not end.
    pub(super) fn stuck(&self) -> String {
        let Some(hub) = &self.hub else { return "there is no coordinator".to_owned() };
        hub.with(|state| {
            let missing = state.members().missing(&state.spec().members);
            format!(
                "{:?}, step {}, {:?} published, {} leases are open, {missing:?} missing, {:?}",
                state.phase(),
                state.committed(),
                state.published(),
                state.leases_open(Purpose::Train),
                state.directive().formation,
            )
        })
    }

    /// The run is over.
    pub(super) fn conclude(&self) {
        let holder = last_formed(&self.ever).and_then(|generation| self.holders.get(&generation));
        let trained = holder.and_then(|process| self.trained.get(process));
        let trained = trained.expect("whoever committed the last step has taken it");
        let due: Vec<Vec<u64>> = (0..STEPS).map(|step| groups_of(step).collect()).collect();
        let found = trained.iter().map(|step| step.keys().copied().collect());
        assert_eq!(found.collect::<Vec<Vec<u64>>>(), due, "what the weights have learnt from");
        for (group, epoch) in trained.iter().flatten() {
            let copy = (GroupId(*group), *epoch);
            assert!(self.granted.contains(&copy), "{copy:?} was never dealt");
        }
        let hub = self.hub.as_ref().expect("a coordinator has ended the run");
        let (totals, open) = hub.with(|state| (*state.totals(), state.leases_open(Purpose::Train)));
        assert_eq!((totals.consumed, totals.trained_twice), (u64::from(STEPS) * GROUPS, 0));
        assert_eq!(open, 0, "groups of committed steps are out");
    }

    pub(super) fn story(&self) -> Story {
        Story {
            trace: self.trace.finish(),
            lives: self.lives,
            generations: self.holders.len() as u32,
            undone: self.undone,
            ..Story::default()
        }
    }
}

fn last_formed(entries: &[JournalEntry]) -> Option<Generation> {
    entries.iter().rev().find_map(|entry| match entry {
        JournalEntry::Formed { generation, .. } => Some(*generation),
        _ => None,
    })
}

/// The steps that count, by an account of our own.
fn surviving_steps(entries: &[JournalEntry]) -> Vec<u32> {
    let mut steps = Vec::new();
    for entry in entries {
        match entry {
            JournalEntry::Committed { record, .. } => steps.push(record.step),
            JournalEntry::Formed { step, .. } => steps.truncate(*step as usize),
            _ => {}
        }
    }
    assert!(steps.iter().copied().eq(1..=steps.len() as u32), "a gap on disk: {steps:?}");
    steps
}
