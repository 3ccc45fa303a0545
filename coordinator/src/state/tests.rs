//! The transitions one by one.

mod commits;
mod generations;
mod stall;

use std::collections::BTreeSet;

use proto::{LeaseAsk, WorkItem};
use settings::Settings;
use types::{Epoch, Finish, GroupId};

use super::*;
use crate::fixtures::{Script, group, registration};

pub(super) const STEPS: u32 = 6;
pub(super) const GROUPS: u64 = 3;
const SAMPLES: u32 = 4;

pub(super) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.train.steps = STEPS;
    settings.train.problems_per_step = GROUPS as u32;
    settings.train.samples_per_problem = SAMPLES;
    settings.eval.problems = 4;
    settings.coordinator.lease_deadline_ms = 1_000;
    settings.coordinator.group_deals_max = 1_000;
    settings
}

fn state(settings: &Settings, actors: u32) -> RunState {
    let source = Source::open(settings).unwrap();
    RunState::new(RunSpec::launch(settings, &source, actors).unwrap(), source)
}

pub(super) fn register(state: &mut RunState, role: Role, index: u32) -> MemberId {
    let registration = registration(role, index, &format!("{}:{index}", role.name()));
    let member = registration.member;
    assert_eq!(state.register(registration), Ok(index));
    member
}

pub(super) fn version(step: u32) -> PolicyVersion {
    PolicyVersion::new(1, step)
}

pub(super) fn ask(member: MemberId, applied: u32, max_rollouts: u32) -> LeaseAsk {
    LeaseAsk {
        member,
        max_rollouts,
        applied_version: Some(version(applied)),
        completed: Vec::new(),
    }
}

pub(super) fn record(learner: MemberId, step: u32) -> StepRecord {
    StepRecord {
        member: learner,
        step,
        version: version(step),
        groups: (u64::from(step - 1) * GROUPS..u64::from(step) * GROUPS).map(GroupId).collect(),
        groups_trained: GROUPS as u32,
        ..StepRecord::default()
    }
}

pub(super) fn commit(state: &mut RunState, record: &StepRecord) -> Result<bool, StateError> {
    state.commit(record, Duration::ZERO)
}

/// What an actor says once the first ranks have taken the item's group.
fn done(item: &WorkItem) -> Completion {
    Completion { lease: item.lease, generation: Generation(1) }
}

/// A run whose evaluations are off, past its start: (state, actors, learner).
fn training(actors: u32) -> (RunState, Vec<MemberId>, MemberId) {
    training_of(&settings(), actors)
}

fn training_of(settings: &Settings, actors: u32) -> (RunState, Vec<MemberId>, MemberId) {
    let mut settings = settings.clone();
    settings.eval.enabled = false;
    let mut state = state(&settings, actors);
    let ids = (0..actors).map(|i| register(&mut state, Role::Actor, i)).collect();
    register(&mut state, Role::WeakServer, 0);
    let learner = register(&mut state, Role::Learner, 0);
    assert_eq!(*state.phase(), Phase::Starting);
    state.publish(version(0)).unwrap();
    assert_eq!(*state.phase(), Phase::Training);
    (state, ids, learner)
}

fn groups(items: &[WorkItem]) -> Vec<u64> {
    items.iter().map(|item| item.group.0).collect()
}

#[test]
fn staleness_bounds_what_is_dealt() {
    let (mut state, actors, learner) = training(1);
    let zero = Duration::ZERO;
    let items = state.lease(&ask(actors[0], 0, 1_000), zero).unwrap();
    assert_eq!(groups(&items), (0..2 * GROUPS).collect::<Vec<_>>(), "steps 0 and 1");
    state.publish(version(1)).unwrap();
    assert_eq!(state.lease(&ask(actors[0], 0, 1_000), zero).unwrap(), [], "too old an actor");
    let items = state.lease(&ask(actors[0], 1, 1_000), zero).unwrap();
    assert_eq!(groups(&items), [6, 7, 8]);
    let mut other = ask(actors[0], 1, 1_000);
    other.applied_version = Some(PolicyVersion::new(2, 9));
    assert_eq!(state.lease(&other, zero).unwrap(), [], "weights of another generation");
    assert!(commit(&mut state, &record(learner, 1)).unwrap());
}

#[test]
fn no_more_is_dealt_than_was_asked_for() {
    let (mut state, actors, _) = training(1);
    let mut dealt = |room| state.lease(&ask(actors[0], 0, room), Duration::ZERO).unwrap().len();
    assert_eq!([dealt(SAMPLES - 1), dealt(2 * SAMPLES + 1), dealt(0)], [0, 2, 0]);
}

#[test]
fn the_first_to_ask_leaves_the_others_their_part_of_a_step() {
    let (mut state, actors, _) = training(2);
    let mut dealt =
        |actor: usize| groups(&state.lease(&ask(actors[actor], 0, 1_000), Duration::ZERO).unwrap());
    assert_eq!(dealt(0), [0, 1]);
    assert_eq!(dealt(0), [0u64; 0], "the rest of the step is the other's");
    assert_eq!(dealt(1), [2, 3, 4]);
    assert_eq!(dealt(0), [5]);
}

#[test]
fn an_actor_that_never_asks_holds_nothing_back() {
    let (mut state, actors, _) = training(2);
    let patience = state.spec().absence_max;
    let mut dealt = |now| groups(&state.lease(&ask(actors[0], 0, 1_000), now).unwrap());
    assert_eq!(dealt(Duration::ZERO), [0, 1]);
    assert_eq!(dealt(patience - Duration::from_millis(1)), [0_u64; 0]);
    assert_eq!(dealt(patience), [2, 3, 4, 5]);
}

#[test]
fn a_full_actor_keeps_its_part() {
    let (mut state, actors, _) = training(2);
    let patience = state.spec().absence_max;
    let mut dealt =
        |actor: usize, room, now| groups(&state.lease(&ask(actors[actor], 0, room), now).unwrap());
    assert_eq!(dealt(0, SAMPLES, Duration::ZERO), [0]);
    // Its one slot is full, so it asks no more; the other asks all the time.
    assert_eq!(dealt(1, 1_000, Duration::ZERO), [1, 2, 3, 4]);
    assert_eq!(dealt(1, 1_000, patience), [0_u64; 0], "group 5 is the full actor's");
}

#[test]
fn data_progress_is_counted_in_shards() {
    let mut settings = settings();
    settings.eval.enabled = false;
    settings.data.shard_problems = 4;
    let mut state = state(&settings, 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    assert_eq!(state.dealing(), None);
    let begun = |state: &mut RunState| -> Vec<u64> {
        let places = state.take_events().into_iter().filter_map(|event| match event {
            Event::Dealing(place) => Some(place.shard),
            _ => None,
        });
        places.collect()
    };
    let items = state.lease(&ask(actor, 0, 5 * SAMPLES), Duration::ZERO).unwrap();
    assert_eq!(begun(&mut state), [0, 1]);
    state.return_group(&returned(actor, &items[0], ReturnReason::Failed)).unwrap();
    state.lease(&ask(actor, 0, SAMPLES), Duration::ZERO).unwrap();
    assert_eq!(begun(&mut state), [0_u64; 0], "a group dealt again begins no shard");
    let place = Place { epoch: 0, shard: 1, shards_begun: 2 };
    assert_eq!(state.dealing(), Some(place));
}

#[test]
fn work_names_its_keys_and_problem() {
    let (mut state, actors, _) = training(1);
    let items = state.lease(&ask(actors[0], 0, SAMPLES), Duration::ZERO).unwrap();
    let item = &items[0];
    assert_eq!((item.schedule.as_str(), item.samples, item.epoch), ("word:0.25", 4, Epoch(0)));
    assert_eq!((item.key_group, item.purpose), (item.group, Purpose::Train));
    assert_eq!(item.sampling, settings().train_sampling());
    assert_eq!(item.problem, Source::open(&settings()).unwrap().train(0));
}

#[test]
fn a_replaced_group_keeps_its_id_and_draws_another_problem_under_another_key() {
    let (mut state, actors, learner) = training(1);
    let lease = |state: &mut RunState| {
        state.lease(&ask(actors[0], 0, SAMPLES), Duration::ZERO).unwrap().remove(0)
    };
    let first = lease(&mut state);
    state.return_group(&returned(learner, &first, ReturnReason::Replaced)).unwrap();
    let second = lease(&mut state);
    assert_eq!((second.group, second.epoch), (first.group, Epoch(1)));
    assert_eq!(second.key_group, first.group.replacement());
    let mut source = Source::open(&settings()).unwrap();
    assert_eq!(second.problem, source.replacement(0));
    assert_ne!(second.problem, first.problem);
    // Whoever writes it next writes the replacement too.
    state.return_group(&returned(actors[0], &second, ReturnReason::Failed)).unwrap();
    let third = lease(&mut state);
    assert_eq!((third.key_group, third.problem), (second.key_group, second.problem));
    let other = lease(&mut state);
    assert_eq!((other.group, other.key_group), (GroupId(1), GroupId(1)));
    let counts = state.counts(Purpose::Train);
    assert_eq!((counts.replaced, counts.leased), (1, 4));
}

#[test]
fn a_group_that_keeps_failing_fails_the_run_by_name() {
    let mut settings = settings();
    settings.eval.enabled = false;
    settings.coordinator.group_deals_max = 3;
    let mut state = state(&settings, 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    for epoch in 0..3 {
        let items = state.lease(&ask(actor, 0, SAMPLES), Duration::ZERO).unwrap();
        assert_eq!((items[0].group, items[0].epoch), (GroupId(0), Epoch(epoch)));
        let returned = ReturnedGroup {
            member: actor,
            group: GroupId(0),
            epoch: Epoch(epoch),
            purpose: Purpose::Train,
            reason: ReturnReason::Failed,
            detail: "no weak server".to_owned(),
        };
        state.return_group(&returned).unwrap();
        state.return_group(&returned).unwrap();
    }
    let Phase::Failed(why) = state.phase() else { panic!("{:?}", state.phase()) };
    assert!(why.starts_with("train group 0 was dealt 3 times"), "{why}");
    assert!(why.contains("failed: no weak server"), "{why}");
    assert_eq!(state.counts(Purpose::Train).failed, 3);
}

#[test]
fn a_group_that_no_actor_can_write_fails_the_run_at_once() {
    let (mut state, actors, _) = training(2);
    let items = state.lease(&ask(actors[0], 0, 2 * SAMPLES), Duration::ZERO).unwrap();
    let detail = "problem 1: its prompt is too long".to_owned();
    let reason = ReturnReason::Impossible;
    let given_up = ReturnedGroup { detail, ..returned(actors[0], &items[1], reason) };
    state.return_group(&given_up).unwrap();
    let expected = "train group 1 cannot be written: problem 1: its prompt is too long";
    assert_eq!(*state.phase(), Phase::Failed(expected.to_owned()));
}

#[test]
fn an_actor_that_is_gone_gives_its_groups_to_others() {
    let (mut state, actors, _) = training(2);
    let (zero, later) = (Duration::ZERO, Duration::from_secs(11));
    let watch = state.watched(actors[0]).unwrap();
    state.lease(&ask(actors[0], 0, SAMPLES), zero).unwrap();
    state.unwatched(watch, zero);
    let watch = state.watched(actors[0]).unwrap();
    state.unwatched(watch, Duration::from_millis(500));
    state.tick(later);
    let unknown = state.lease(&ask(actors[0], 0, SAMPLES), later).unwrap_err();
    assert_eq!(unknown, MemberError::Unknown(actors[0]).into());
    let items = state.lease(&ask(actors[1], 0, SAMPLES), later).unwrap();
    assert_eq!((items[0].group, items[0].epoch), (GroupId(0), Epoch(1)));
}

/// Runs an evaluation and returns (schedule, temperature, key, problem) of all its work.
pub(super) fn evaluate(state: &mut RunState, actor: MemberId, step: u32) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while matches!(state.phase(), Phase::Evaluating(_)) {
        let items = state.lease(&ask(actor, step, 5), Duration::ZERO).unwrap();
        assert!(!items.is_empty(), "the evaluation must go on");
        let script = Script::right(version(step));
        let done: Vec<_> = items.iter().map(|item| group(item, script)).collect();
        for item in &items {
            assert_eq!((item.samples, item.purpose), (1, Purpose::Eval));
            let (schedule, temperature) = (&item.schedule, item.sampling.temperature);
            let question = &item.problem.question;
            seen.insert(format!("{schedule} {temperature} {} {question}", item.key_group));
        }
        state.report_eval(actor, &done).unwrap();
        state.report_eval(actor, &done).unwrap();
    }
    seen
}

#[test]
fn evaluations_before_and_after_draw_the_same() {
    let mut settings = settings();
    settings.train.steps = 4;
    settings.eval.every_steps = 2;
    settings.eval.every_problems = 2;
    let mut state = state(&settings, 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    let learner = register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::Before));
    let mut old = ask(actor, 0, 5);
    old.applied_version = None;
    assert_eq!(state.lease(&old, Duration::ZERO).unwrap(), []);
    let mut before = evaluate(&mut state, actor, 0);
    assert_eq!(before.len(), 5 * 4);

    for step in 1..=4 {
        assert_eq!(*state.phase(), Phase::Training);
        let items = state.lease(&ask(actor, step - 1, 1_000), Duration::ZERO).unwrap();
        let latest = items.iter().map(|item| item.group.0 / GROUPS).max();
        let pause = if step <= 2 { 1 } else { 3 };
        assert!(
            latest.is_none_or(|latest| latest <= pause),
            "the evaluation waits for its weights"
        );
        state.publish(version(step)).unwrap();
        commit(&mut state, &record(learner, step)).unwrap();
        if step == 2 {
            assert_eq!(*state.phase(), Phase::Evaluating(Stage::During));
            assert_eq!(state.lease(&ask(actor, 1, 5), Duration::ZERO).unwrap(), [], "old weights");
            assert_eq!(evaluate(&mut state, actor, 2).len(), 4 * 2);
        }
    }
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::After));
    let after = evaluate(&mut state, actor, 4);
    before.retain(|work| !work.starts_with("token:1 "));
    assert_eq!(after, before);
    assert_eq!(*state.phase(), Phase::Done);
    assert_eq!(state.before(), state.after(), "the frozen weak model is measured once");
    let stages = state.take_events().into_iter().filter_map(|event| match event {
        Event::Evaluated { stage, step, .. } => Some((stage, step)),
        _ => None,
    });
    let expected = [(Stage::Before, 0), (Stage::During, 2), (Stage::After, 4)];
    assert_eq!(stages.collect::<Vec<_>>(), expected);
}

#[test]
fn a_refused_evaluation_group_is_dealt_again() {
    let mut state = state(&settings(), 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    let items = state.lease(&ask(actor, 0, 2), Duration::ZERO).unwrap();
    let good = group(&items[1], Script::right(version(0)));
    let bad = group(&items[0], Script::right(version(7)));
    let refusal = state.report_eval(actor, &[bad, good]).unwrap_err().to_string();
    assert!(refusal.contains("g1s7 while g1s0"), "{refusal}");
    assert_eq!(state.eval_progress(), Some((1, 20)));
    let again = state.lease(&ask(actor, 0, 1), Duration::ZERO).unwrap();
    assert_eq!((again[0].group, again[0].epoch), (items[0].group, Epoch(1)));
    let wrong = Script { correct: false, finish: Finish::End, ..Script::right(version(0)) };
    state.report_eval(actor, &[group(&again[0], wrong)]).unwrap();
    assert_eq!(state.eval_progress(), Some((2, 20)));
}

#[test]
fn supervised_examples_repeat_and_need_no_weights() {
    let mut settings = settings();
    settings.train.objective = settings::Objective::Sft;
    let source = Source::open(&settings).unwrap();
    let mut state = RunState::new(RunSpec::sft(&settings), source);
    let learner = register(&mut state, Role::Learner, 0);
    assert_eq!(*state.phase(), Phase::Training);
    let first = state.examples(learner, 0, 3).unwrap();
    let second = state.examples(learner, 1, 3).unwrap();
    assert_eq!(state.examples(learner, 0, 3).unwrap(), first);
    assert!(first.iter().all(|problem| !second.contains(problem) && problem.solution.is_some()));
    state.publish(version(0)).unwrap();
    for step in 1..=STEPS {
        let groups = Vec::new();
        commit(&mut state, &StepRecord { groups, groups_trained: 48, ..record(learner, step) })
            .unwrap();
    }
    assert_eq!(*state.phase(), Phase::Done);
    assert_eq!(state.totals().consumed, 48 * u64::from(STEPS));
}

fn returned(member: MemberId, item: &WorkItem, reason: ReturnReason) -> ReturnedGroup {
    ReturnedGroup {
        member,
        group: item.group,
        epoch: item.epoch,
        purpose: item.purpose,
        reason,
        detail: String::new(),
    }
}
