//! Ranks that come, go and come back.

use super::*;
use crate::journal::UNRECORDED_MAX;

/// A run on two ranks, past its start: (state, actor, ranks).
fn on_two_ranks() -> (RunState, MemberId, [MemberId; 2]) {
    let mut settings = settings();
    settings.eval.enabled = false;
    let source = Source::open(&settings).unwrap();
    let mut spec = RunSpec::launch(&settings, &source, 1).unwrap();
    spec.members.learners = 2;
    let mut state = RunState::new(spec, source);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    let second = register(&mut state, Role::Learner, 1);
    assert_eq!(state.directive().formation, None, "one rank is missing");
    let first = register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    (state, actor, [first, second])
}

fn generation(state: &RunState) -> Option<(u32, u32)> {
    let formation = state.directive().formation?;
    Some((formation.generation.0, formation.committed))
}

#[test]
fn ranks_form_when_all_are_there_in_their_order() {
    let (state, ..) = on_two_ranks();
    let formation = state.directive().formation.unwrap();
    let addresses: Vec<&str> = formation.ranks.iter().map(|rank| &*rank.address).collect();
    assert_eq!(addresses, ["learner:0", "learner:1"]);
    assert_eq!((formation.generation, formation.committed), (Generation(1), 0));
}

#[test]
fn a_rank_that_comes_back_makes_another_generation() {
    let (mut state, _, [first, _]) = on_two_ranks();
    state.publish(version(1)).unwrap();
    commit(&mut state, &record(first, 1)).unwrap();
    state.ended(Role::Learner, 1, Duration::ZERO);
    assert_eq!(generation(&state), None);
    register(&mut state, Role::Learner, 1);
    assert_eq!(generation(&state), Some((2, 1)));
    // The rank that stayed may finish what it had in hand.
    state.publish(version(2)).unwrap();
    commit(&mut state, &record(first, 2)).unwrap();
    state.publish(PolicyVersion::new(2, 2)).unwrap();
    let late = StepRecord { groups: vec![], ..record(first, 3) };
    let refusal = commit(&mut state, &late).unwrap_err().to_string();
    assert_eq!(refusal, "step 3 is of generation 1, but 2 is published");
}

#[test]
fn row_10_a_learner_that_was_cut_off_is_no_learner_any_more_when_another_has_come() {
    let (mut state, _, cut_off) = training(1);
    let watch = state.watched(cut_off).unwrap();
    state.unwatched(watch, Duration::ZERO);
    let patience = state.spec().absence_max;
    state.tick(patience);
    let other = register(&mut state, Role::Learner, 0);
    state.publish(PolicyVersion::new(2, 0)).unwrap();
    // The cut is mended: what the first one says is of nobody, under whatever name.
    let late = commit(&mut state, &record(cut_off, 1)).unwrap_err();
    assert_eq!(late, MemberError::Unknown(cut_off).into());
    let version = version(1);
    assert!(matches!(state.publish(version), Err(StateError::Version { .. })));
    let as_other = commit(&mut state, &record(other, 1)).unwrap_err();
    assert!(matches!(as_other, StateError::Generation { .. }), "{as_other}");
    assert_eq!((state.committed(), state.totals().trained_twice), (0, 0));
}

#[test]
fn ranks_that_cannot_go_on_form_anew_once() {
    let (mut state, actor, [first, second]) = on_two_ranks();
    for rank in [first, second] {
        state.reform(rank, Generation(1)).unwrap();
    }
    assert_eq!(generation(&state), Some((2, 0)), "the second word was of the first generation");
    assert!(state.reform(actor, Generation(2)).is_err());
}

#[test]
fn ranks_that_form_again_and_again_and_publish_nothing_fail_the_run() {
    let (mut state, _, [first, _]) = on_two_ranks();
    let mut forms = 0;
    while let Some((present, _)) = generation(&state) {
        forms += 1;
        state.reform(first, Generation(present)).unwrap();
    }
    assert_eq!(forms, UNRECORDED_MAX + 1, "one has published");
    let Phase::Failed(why) = state.phase() else { panic!("{:?}", state.phase()) };
    assert!(why.contains("published nothing"), "{why}");
}

#[test]
fn what_dead_ranks_took_is_dealt_again_whenever_that_is_said() {
    let (mut state, actor, [first, _]) = on_two_ranks();
    let items = state.lease(&ask(actor, 0, 3 * SAMPLES), Duration::ZERO).unwrap();
    state.complete(actor, &[done(&items[0])]).unwrap();
    state.reform(first, Generation(1)).unwrap();
    // One was reported before the ranks formed anew, one after, one is taken by the new ranks.
    state.complete(actor, &[done(&items[1])]).unwrap();
    let taken = Completion { generation: Generation(2), ..done(&items[2]) };
    state.complete(actor, &[taken]).unwrap();
    let again = state.lease(&ask(actor, 0, 3 * SAMPLES), Duration::ZERO).unwrap();
    let dealt: Vec<_> = again.iter().map(|item| (item.group.0, item.epoch.0)).collect();
    assert_eq!(dealt, [(0, 1), (1, 1), (3, 0)]);
    assert_eq!(state.counts(Purpose::Train).completed, 2);
}

#[test]
fn going_on_from_an_earlier_step_undoes_the_later_ones() {
    let (mut state, actors, learner) = training(1);
    let mut totals = Vec::new();
    for step in 1..=3 {
        let items = state.lease(&ask(actors[0], step - 1, 1_000), Duration::ZERO).unwrap();
        assert!(!items.is_empty());
        state.publish(version(step)).unwrap();
        commit(&mut state, &StepRecord { strong_tokens: 10, ..record(learner, step) }).unwrap();
        totals.push(*state.totals());
    }
    state.take_events();
    state.ended(Role::Learner, 0, Duration::ZERO);
    let learner = register(&mut state, Role::Learner, 0);
    assert_eq!(state.publish(PolicyVersion::new(2, 1)), Ok(2));
    assert_eq!((state.committed(), *state.totals()), (1, totals[0]));
    let undone = Event::RolledBack { generation: Generation(2), step: 1, undone: 2 };
    assert!(state.take_events().contains(&undone));
    let mut fresh = ask(actors[0], 0, 1_000);
    fresh.applied_version = Some(PolicyVersion::new(2, 1));
    let items = state.lease(&fresh, Duration::ZERO).unwrap();
    let dealt: Vec<_> = items.iter().map(|item| (item.group.0, item.epoch.0)).collect();
    // Groups 3 to 8 were consumed, 9 to 11 were out: each is fenced against its earlier copies.
    assert_eq!(dealt, [(3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)]);
    let version = PolicyVersion::new(2, 2);
    state.publish(version).unwrap();
    commit(&mut state, &StepRecord { version, strong_tokens: 10, ..record(learner, 2) }).unwrap();
    assert_eq!(*state.totals(), totals[1]);
}

#[test]
fn no_version_is_left_out_and_none_is_of_another_generation() {
    let (mut state, ..) = training(1);
    let refused = |state: &mut RunState, generation, step| {
        let version = PolicyVersion::new(generation, step);
        state.publish(version).unwrap_err().to_string()
    };
    let text = refused(&mut state, 1, 2);
    assert_eq!(text, "weights g1s2 are not what comes next, which is g1s1");
    assert!(refused(&mut state, 2, 0).contains("which is g1s0"), "no such ranks have formed");
    assert_eq!(state.publish(version(0)), Ok(0), "a repetition");
    state.ended(Role::Learner, 0, Duration::ZERO);
    register(&mut state, Role::Learner, 0);
    assert!(refused(&mut state, 2, 1).contains("which is g2s0"), "nothing is committed yet");
}

#[test]
fn an_evaluation_of_undone_weights_is_given_up() {
    let mut settings = settings();
    settings.train.steps = 4;
    settings.eval.every_steps = 2;
    settings.eval.every_problems = 2;
    let mut state = state(&settings, 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    let learner = register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    evaluate(&mut state, actor, 0);
    for step in 1..=2 {
        state.publish(version(step)).unwrap();
        commit(&mut state, &record(learner, step)).unwrap();
    }
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::During));
    state.ended(Role::Learner, 0, Duration::ZERO);
    register(&mut state, Role::Learner, 0);
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::During), "the weights are still there");
    state.publish(PolicyVersion::new(2, 1)).unwrap();
    assert_eq!((state.phase(), state.eval_progress()), (&Phase::Training, None));
    assert_eq!(state.leases_open(Purpose::Eval), 0);
}
