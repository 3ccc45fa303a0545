//! Runs that end anywhere and go on from what they wrote down.

use std::time::Duration;

use proto::{JournalEntry, Registration, Role};
use settings::Settings;
use types::{Generation, GroupId, PolicyVersion};

use crate::fixtures::registration;
use crate::journal::{UNRECORDED_MAX, surviving};
use crate::source::Source;
use crate::spec::RunSpec;
use crate::state::tests::{GROUPS, ask, commit, evaluate, record, register, settings, version};
use crate::state::{Phase, RunState, Stage, StateError};

fn opened() -> Vec<JournalEntry> {
    vec![JournalEntry::Opened { run: 5, format: proto::JOURNAL_FORMAT }]
}

fn resumed(settings: &Settings, entries: &[JournalEntry]) -> RunState {
    let source = Source::open(settings).unwrap();
    let spec = RunSpec::launch(settings, &source, 1).unwrap();
    let surviving = surviving(entries.to_vec()).unwrap();
    // The shortest journal says the same.
    assert_eq!(crate::journal::surviving(surviving.entries()).unwrap(), surviving);
    RunState::resumed(spec, source, &surviving).unwrap()
}

/// Three processes, the weights of a generation at a step.
fn start(state: &mut RunState, version: PolicyVersion) -> [types::MemberId; 2] {
    let actor = register(state, proto::Role::Actor, 0);
    register(state, proto::Role::WeakServer, 0);
    let learner = register(state, proto::Role::Learner, 0);
    state.publish(version).unwrap();
    [actor, learner]
}

#[test]
fn a_run_goes_on_after_its_last_committed_step_and_evaluates_nothing_twice() {
    let mut settings = settings();
    settings.train.steps = 4;
    settings.eval.every_steps = 2;
    settings.eval.every_problems = 2;
    let mut entries = opened();
    let mut state = resumed(&settings, &entries);
    let [actor, learner] = start(&mut state, version(0));
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::Before));
    evaluate(&mut state, actor, 0);
    for step in 1..=2 {
        state.lease(&ask(actor, step - 1, 1_000), Duration::ZERO).unwrap();
        state.publish(version(step)).unwrap();
        commit(&mut state, &record(learner, step)).unwrap();
    }
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::During));
    entries.extend(state.take_entries());
    let (before, totals) = (state.before().cloned(), *state.totals());
    assert!(before.is_some());

    // It ends here, before the interleaved evaluation is done.
    let mut state = resumed(&settings, &entries);
    assert_eq!((state.committed(), state.before().cloned()), (2, before));
    assert_eq!(*state.totals(), totals);
    let [actor, learner] = start(&mut state, PolicyVersion::new(2, 2));
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::During), "it is begun anew");
    let mut fresh = ask(actor, 0, 1_000);
    fresh.applied_version = Some(PolicyVersion::new(2, 2));
    assert_eq!(state.take_events().len(), 2, "ranks, and no evaluation before training");
    assert!(!state.lease(&fresh, Duration::ZERO).unwrap().is_empty());

    // It ends again, and its learner finds only the checkpoint of step 1.
    entries.extend(state.take_entries());
    let mut state = resumed(&settings, &entries);
    let [actor, learner_again] = start(&mut state, PolicyVersion::new(3, 1));
    assert_ne!((actor, learner), (learner_again, learner_again));
    assert_eq!((state.phase(), state.committed()), (&Phase::Training, 1));
    fresh.applied_version = Some(PolicyVersion::new(3, 1));
    fresh.member = actor;
    let items = state.lease(&fresh, Duration::ZERO).unwrap();
    assert_eq!(items[0].group, GroupId(GROUPS));
    assert!(items.iter().all(|item| item.epoch.0 > 0), "fenced off against earlier copies");
    entries.extend(state.take_entries());
    assert_eq!(surviving(entries).unwrap().step(), 1);
}

#[test]
fn the_repetition_of_the_last_commit_is_no_news_after_a_restart() {
    let mut settings = settings();
    settings.eval.enabled = false;
    let mut entries = opened();
    let mut state = resumed(&settings, &entries);
    let [_, learner] = start(&mut state, version(0));
    commit(&mut state, &record(learner, 1)).unwrap();
    entries.extend(state.take_entries());
    // The process has outlived the coordinator.
    let mut state = resumed(&settings, &entries);
    let same = Registration { member: learner, ..registration(Role::Learner, 0, "") };
    assert_eq!(state.register(same), Ok(0));
    assert_eq!(commit(&mut state, &record(learner, 1)), Ok(false));
    assert_eq!((state.committed(), state.totals().trained_twice), (1, 0));
}

#[test]
fn ranks_that_its_journal_does_not_know_are_not_formed_twice() {
    let mut settings = settings();
    settings.eval.enabled = false;
    let mut state = resumed(&settings, &opened());
    // An earlier coordinator formed them and was killed before they published anything.
    let survivor = Registration { generation: Generation(3), ..registration(Role::Learner, 0, "") };
    state.register(survivor).unwrap();
    let formed = state.directive().formation.unwrap();
    assert_eq!(formed.generation, Generation(4));
}

#[test]
fn what_ranks_of_an_earlier_coordinator_publish_is_refused() {
    let mut settings = settings();
    settings.eval.enabled = false;
    let mut entries = opened();
    let mut state = resumed(&settings, &entries);
    start(&mut state, version(0));
    entries.extend(state.take_entries());
    let surviving = surviving(entries).unwrap().gone_on_from();
    let source = Source::open(&settings).unwrap();
    let spec = RunSpec::launch(&settings, &source, 1).unwrap();
    let mut state = RunState::resumed(spec, source, &surviving).unwrap();
    // The answer was lost, and the same is sent again before any ranks are there.
    assert!(matches!(state.publish(version(0)), Err(StateError::Version { .. })));
    assert_eq!(state.take_entries(), []);
    register(&mut state, Role::Learner, 0);
    let formed = state.directive().formation.unwrap();
    assert_eq!(formed.generation, Generation(1 + UNRECORDED_MAX + 1));
}

#[test]
fn leases_of_an_earlier_coordinator_complete_nothing() {
    let mut settings = settings();
    settings.eval.enabled = false;
    let source = Source::open(&settings).unwrap();
    let spec = RunSpec::launch(&settings, &source, 1).unwrap();
    let surviving = surviving(opened()).unwrap();
    let spec = RunSpec { first_lease: 1 << 40, ..spec };
    let mut state = RunState::resumed(spec, source, &surviving).unwrap();
    let [actor, _] = start(&mut state, version(0));
    let items = state.lease(&ask(actor, 0, 1_000), Duration::ZERO).unwrap();
    assert_eq!(items[0].lease, types::LeaseId((1 << 40) + 1));
    let stale = proto::Completion { lease: types::LeaseId(1), generation: Generation(1) };
    state.complete(actor, &[stale]).unwrap();
    assert_eq!(state.leases_open(types::Purpose::Train), items.len());
}

#[test]
fn a_finished_training_only_evaluates() {
    let mut settings = settings();
    settings.train.steps = 1;
    let mut entries = opened();
    let mut state = resumed(&settings, &entries);
    let [actor, learner] = start(&mut state, version(0));
    evaluate(&mut state, actor, 0);
    state.publish(version(1)).unwrap();
    commit(&mut state, &record(learner, 1)).unwrap();
    entries.extend(state.take_entries());
    let mut state = resumed(&settings, &entries);
    start(&mut state, PolicyVersion::new(2, 1));
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::After));
}
