//! Runs that wait: for whom, for how long, and what is said then.

use proto::Wait;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn failure(state: &RunState) -> String {
    match state.phase() {
        Phase::Failed(why) => why.clone(),
        other => panic!("{other:?}"),
    }
}

/// Ticks until just before the limit do nothing, one at the limit fails the run.
fn fails_after(state: &mut RunState, from: Duration, limit: Duration) -> String {
    state.tick(from);
    state.tick(from + limit - Duration::from_millis(1));
    assert!(!matches!(state.phase(), Phase::Failed(_)), "{:?}", state.phase());
    state.tick(from + limit);
    failure(state)
}

#[test]
fn a_run_that_never_starts_names_who_is_missing() {
    let mut state = state(&settings(), 2);
    register(&mut state, Role::Actor, 1);
    register(&mut state, Role::WeakServer, 0);
    let limit = state.spec().start_max;
    let why = fails_after(&mut state, Duration::ZERO, limit);
    let expected = "no progress for 600 s: waiting for actor-0 to register; learner-0 to register; \
                    the first weights (coordinator.start_timeout_ms)";
    assert_eq!(why, expected);
}

#[test]
fn others_have_an_hour_to_start_the_processes_and_the_weights_ten_minutes_after_the_last() {
    let mut state = state(&settings(), 1);
    state.spec.gather_max = Some(Duration::from_secs(3_600));
    register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    state.tick(Duration::from_secs(3_599));
    assert_eq!(*state.phase(), Phase::Starting);
    register(&mut state, Role::Learner, 0);
    let gathered = Duration::from_secs(3_600);
    state.tick(gathered);
    let limit = state.spec().start_max;
    let why = fails_after(&mut state, gathered, limit);
    let expected =
        "no progress for 600 s: waiting for the first weights (coordinator.start_timeout_ms)";
    assert_eq!(why, expected);

    // One that comes and goes changes nothing.
    let mut state = super::state(&settings(), 1);
    state.spec.gather_max = Some(gathered);
    let mut passing = register(&mut state, Role::Actor, 0);
    state.tick(Duration::ZERO);
    for minute in 1..60 {
        state.lose(passing, Duration::from_secs(60 * minute - 1));
        state.tick(Duration::from_secs(60 * minute - 1));
        passing = register(&mut state, Role::Actor, 0);
        state.tick(Duration::from_secs(60 * minute));
    }
    state.lose(passing, Duration::from_secs(3_599));
    state.tick(Duration::from_secs(3_599));
    assert_eq!(*state.phase(), Phase::Starting);
    state.tick(gathered);
    let why = failure(&state);
    assert!(why.starts_with("no progress for 3600 s: waiting for actor-0 to register;"), "{why}");
    assert!(why.ends_with("(coordinator.gather_timeout_ms)"), "{why}");
}

#[test]
fn leases_that_expire_for_ever_fail_the_run_with_the_groups_waited_for() {
    let (mut state, actors, _) = training(1);
    let limit = state.spec().stall_max;
    let items = state.lease(&ask(actors[0], 0, 2 * SAMPLES), Duration::ZERO).unwrap();
    state.complete(actors[0], &[done(&items[0])]).unwrap();
    let why = fails_after(&mut state, SECOND, limit);
    let expected = "no progress for 1800 s: waiting for train groups 1 to 2 with nobody; \
                    dealt again last: train group 1, its lease ran out \
                    (coordinator.lease_deadline_ms) (coordinator.stall_timeout_ms)";
    assert_eq!(why, expected);
}

#[test]
fn a_wedged_learner_is_named_once_all_groups_are_there() {
    let (mut state, actors, _) = training(1);
    let limit = state.spec().stall_max;
    let items = state.lease(&ask(actors[0], 0, 3 * SAMPLES), Duration::ZERO).unwrap();
    let delivered: Vec<Completion> = items.iter().map(done).collect();
    state.complete(actors[0], &delivered).unwrap();
    let why = fails_after(&mut state, Duration::ZERO, limit);
    assert!(why.contains("waiting for the learner to commit step 1 ("), "{why}");
}

#[test]
fn every_kind_of_progress_gives_the_run_new_time() {
    let mut state = state(&settings(), 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    let learner = register(&mut state, Role::Learner, 0);
    let nearly = state.spec().stall_max - SECOND;
    let mut now = Duration::ZERO;
    let mut later = |state: &mut RunState| {
        state.tick(now);
        now += nearly;
        state.tick(now);
        assert!(!matches!(state.phase(), Phase::Failed(_)), "{:?}", state.phase());
        now
    };
    state.publish(version(0)).unwrap();
    let now = later(&mut state);
    let items = state.lease(&ask(actor, 0, 20), now).unwrap();
    let written: Vec<_> = items.iter().map(|i| group(i, Script::right(version(0)))).collect();
    state.report_eval(actor, &written[..1]).unwrap();
    later(&mut state);
    state.report_eval(actor, &written[1..]).unwrap();
    assert_eq!(*state.phase(), Phase::Training);
    let now = later(&mut state);
    let items = state.lease(&ask(actor, 0, SAMPLES), now).unwrap();
    state.complete(actor, &[done(&items[0])]).unwrap();
    later(&mut state);
    state.publish(version(1)).unwrap();
    commit(&mut state, &record(learner, 1)).unwrap();
    later(&mut state);
}

#[test]
fn an_evaluation_names_the_first_groups_it_waits_for() {
    let limit = Duration::from_secs(1800);
    let late = limit - Duration::from_millis(500);
    // In turn to either actor.
    let waiting = |leases: u64| {
        let mut state = state(&settings(), 2);
        assert_eq!(state.spec().stall_max, limit);
        let actors = [0, 1].map(|index| register(&mut state, Role::Actor, index));
        register(&mut state, Role::WeakServer, 0);
        register(&mut state, Role::Learner, 0);
        state.publish(version(0)).unwrap();
        state.tick(Duration::ZERO);
        for group in 0..leases {
            let items = state.lease(&ask(actors[group as usize % 2], 0, 1), late).unwrap();
            assert_eq!(items[0].group, GroupId(group));
        }
        state.tick(limit);
        failure(&state)
    };
    let why = waiting(1);
    assert!(why.contains("evaluation groups 0 with actor-0, 1 to 19 with nobody ("), "{why}");
    let why = waiting(10);
    assert!(why.contains("evaluation groups 0 with actor-0, 1 with actor-1, 2 with "), "{why}");
    assert!(why.contains("7 with actor-1 and 12 more ("), "{why}");
}

/// Its watch ends and is not opened again.
fn vanish(state: &mut RunState, member: MemberId) {
    let watch = state.watched(member).unwrap();
    state.unwatched(watch, SECOND);
    let patience = state.spec().absence_max;
    state.tick(SECOND + patience);
}

#[test]
fn a_run_waits_for_a_member_that_nobody_can_stand_in_for_and_names_it() {
    let (mut state, _, learner) = training(2);
    vanish(&mut state, learner);
    assert_eq!((state.phase(), state.needs(Role::Learner)), (&Phase::Training, true));
    assert!(state.take_events().contains(&Event::Left("learner-0".to_owned())));
    assert_eq!(state.directive().formation, None);
    let (limit, gone) = (state.spec().stall_max, SECOND + state.spec().absence_max);
    let why = fails_after(&mut state, gone, limit);
    assert!(
        why.contains("waiting for learner-0 to register; train groups 0 to 2 with nobody"),
        "{why}"
    );

    let mut state = super::state(&settings(), 1);
    let weak = register(&mut state, Role::WeakServer, 0);
    vanish(&mut state, weak);
    assert!(state.needs(Role::WeakServer) && *state.phase() == Phase::Starting);
    register(&mut state, Role::WeakServer, 0);
    assert_eq!(state.directive().weak_servers, ["weak-server:0"]);
}

#[test]
fn an_actor_that_is_gone_is_told_and_the_run_goes_on() {
    let (mut state, actors, _) = training(2);
    vanish(&mut state, actors[1]);
    assert_eq!(*state.phase(), Phase::Training);
    assert!(state.take_events().contains(&Event::Left("actor-1".to_owned())));
    let limit = state.spec().stall_max;
    let gone = SECOND + state.spec().absence_max;
    let why = fails_after(&mut state, gone, limit);
    assert!(
        why.contains("waiting for actor-1 to register; train groups 0 to 2 with nobody"),
        "{why}"
    );
}

#[test]
fn nobody_misses_a_learner_whose_work_is_done() {
    let mut settings = settings();
    settings.train.steps = 1;
    let mut state = state(&settings, 1);
    let actor = register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    let learner = register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    evaluate(&mut state, actor, 0);
    state.publish(version(1)).unwrap();
    commit(&mut state, &record(learner, 1)).unwrap();
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::After));
    vanish(&mut state, learner);
    assert_eq!(*state.phase(), Phase::Evaluating(Stage::After));
    assert!(!state.needs(Role::Learner) && state.needs(Role::Actor));
}

#[test]
fn a_stalled_run_tells_what_its_members_said_they_wait_for() {
    let (mut state, actors, learner) = training(1);
    let wait = Wait {
        what: "a sum with rank 1".to_owned(),
        since: Duration::from_secs(7),
        limit: Some(Duration::from_secs(30)),
    };
    let limit = state.spec().stall_max;
    let pulse = |member, waits| Pulse { member, idle: SECOND, waits };
    let beats = limit.as_secs() - 5;
    state.tick(Duration::ZERO);
    for second in 0..=beats {
        let now = Duration::from_secs(second);
        state.heard(pulse(actors[0], Vec::new()), now).unwrap();
        state.heard(pulse(learner, vec![wait.clone()]), now).unwrap();
    }
    let seen = state.inspection(limit);
    let names: Vec<_> = seen.members.iter().map(|member| &*member.name).collect();
    assert_eq!(names, ["actor-0", "weak-server-0", "learner-0"]);
    let [actor, server, learner] = &seen.members[..] else { panic!("{seen:?}") };
    assert_eq!((actor.silent, server.silent), (Some(5 * SECOND), None));
    assert_eq!((learner.idle, learner.waits[0].since), (6 * SECOND, 12 * SECOND));
    assert_eq!((&*seen.phase, seen.idle), ("training", limit));
    state.tick(limit);
    let why = failure(&state);
    assert!(why.ends_with("\n  learner-0 waits for a sum with rank 1 for 12 s"), "{why}");
}

#[test]
fn a_member_that_gives_no_sign_of_life_is_lost_and_comes_back_by_registering() {
    let mut patient = settings();
    patient.coordinator.lease_deadline_ms = 240_000;
    let (mut state, actors, _) = training_of(&patient, 1);
    let silence = state.spec().silence_max;
    let pulse = |member| Pulse { member, idle: SECOND, waits: Vec::new() };
    state.watched(actors[0]).unwrap();
    state.heard(pulse(actors[0]), SECOND).unwrap();
    let items = state.lease(&ask(actors[0], 0, SAMPLES), SECOND).unwrap();
    state.take_events();
    state.tick(silence);
    assert_eq!((state.leases_open(Purpose::Train), state.take_events()), (items.len(), vec![]));
    state.tick(SECOND + silence);
    assert_eq!(state.leases_open(Purpose::Train), 0, "its groups are dealt again");
    assert!(state.take_events().contains(&Event::Left("actor-0".to_owned())));
    let unknown = state.heard(pulse(actors[0]), SECOND + silence).unwrap_err();
    assert_eq!(unknown, StateError::Member(MemberError::Unknown(actors[0])));
    let again = Registration { member: actors[0], ..registration(Role::Actor, 0, "") };
    assert_eq!(state.register(again), Ok(0));
    state.heard(pulse(actors[0]), SECOND + silence).unwrap();
}

#[test]
fn below_the_least_actors_no_work_is_dealt() {
    let mut few = settings();
    few.coordinator.actors_min = 2;
    let (mut state, actors, _) = training_of(&few, 3);
    assert!(state.remove(actors[0], None, SECOND).is_some());
    let leased = |state: &mut RunState, member| {
        !state.lease(&ask(member, 0, SAMPLES), SECOND).unwrap().is_empty()
    };
    assert!(leased(&mut state, actors[1]), "two are enough");
    state.take_events();
    state.leave(actors[2], Departure::Ordered, SECOND).unwrap();
    assert_eq!(state.take_events(), [Event::TooFewActors { here: 1, least: 2 }]);
    assert!(!leased(&mut state, actors[1]));
    let waits = state.inspection(SECOND).waits;
    assert!(waits.contains(&"2 actors (coordinator.actors_min)".to_owned()), "{waits:?}");
    register(&mut state, Role::Actor, 0);
    assert_eq!(state.take_events(), [Event::EnoughActors]);
    assert!(leased(&mut state, actors[1]));
}
