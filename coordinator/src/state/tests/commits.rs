//! What a reported step must account for.

use super::*;

fn refused(state: &mut RunState, record: &StepRecord) -> StateError {
    commit(state, record).unwrap_err()
}

#[test]
fn commits_come_in_order_once() {
    let (mut state, _, learner) = training(1);
    let early = refused(&mut state, &record(learner, 2));
    assert_eq!(early, StateError::Step { found: 2, expected: 1 });
    assert_eq!(state.totals().trained_twice, 0);
    state.publish(version(1)).unwrap();
    assert_eq!(commit(&mut state, &record(learner, 1)), Ok(true));
    assert_eq!(commit(&mut state, &record(learner, 1)), Ok(false), "its answer was lost");
    assert_eq!((state.totals().consumed, state.totals().trained_twice), (GROUPS, 0));
    assert_eq!(state.take_events().iter().filter(|e| matches!(e, Event::Committed(_))).count(), 1);
    let mut mixed = record(learner, 2);
    mixed.groups_trained = 1;
    let fault = StateError::Count { step: 2, found: 1, expected: GROUPS };
    assert_eq!(refused(&mut state, &mixed), fault);
    mixed.groups_zero_variance = 2;
    assert_eq!(commit(&mut state, &mixed), Ok(true));
    let totals = state.totals();
    assert_eq!((totals.consumed, totals.trained, totals.zero_variance), (6, GROUPS + 1, 2));
}

#[test]
fn row_8_a_commit_that_is_sent_three_times_counts_once() {
    const COMMITS: u32 = 100_000;
    let mut settings = settings();
    settings.eval.enabled = false;
    settings.train.steps = COMMITS / 3 + 1;
    let mut state = state(&settings, 1);
    register(&mut state, Role::Actor, 0);
    register(&mut state, Role::WeakServer, 0);
    let learner = register(&mut state, Role::Learner, 0);
    state.publish(version(0)).unwrap();
    for step in 1..=settings.train.steps {
        state.publish(version(step)).unwrap();
        let record = record(learner, step);
        let answers = [0; 3].map(|_| commit(&mut state, &record));
        assert_eq!(answers, [Ok(true), Ok(false), Ok(false)], "step {step}");
    }
    let steps = u64::from(settings.train.steps);
    let entries = state.take_entries();
    let kept = entries.iter().filter(|e| matches!(e, JournalEntry::Committed { .. })).count();
    assert_eq!((state.totals().consumed, kept as u64), (steps * GROUPS, steps));
    assert_eq!(state.totals().trained_twice, 0);
}

#[test]
fn a_learner_that_repeats_a_group_is_found_out() {
    let (mut state, _, learner) = training(1);
    commit(&mut state, &record(learner, 1)).unwrap();
    let mut repeated = record(learner, 2);
    repeated.groups = [2, 4, 5].map(GroupId).to_vec();
    let text = refused(&mut state, &repeated).to_string();
    assert_eq!(text, "step 2 was made of groups 2, 4, 5 where 3 to 5 are due");
    assert_eq!(state.totals().trained_twice, 1, "group 2 belongs to step 1");
    repeated.groups = [3, 5, 5].map(GroupId).to_vec();
    assert!(matches!(refused(&mut state, &repeated), StateError::Groups { .. }));
    assert_eq!(state.totals().trained_twice, 2, "group 5 stands there twice");
    let again = StepRecord { version: version(9), ..record(learner, 1) };
    assert_eq!(refused(&mut state, &again), StateError::Step { found: 1, expected: 2 });
    assert_eq!(state.totals().trained_twice, 2 + GROUPS, "not the report that counted");
    assert_eq!((state.committed(), state.totals().consumed), (1, GROUPS));
}
