//! Which history is left.

use super::*;

fn survives(entries: &[JournalEntry]) -> Surviving {
    surviving(entries.to_vec()).unwrap()
}

fn refused(entries: &[JournalEntry]) -> String {
    surviving(entries.to_vec()).unwrap_err().to_string()
}

#[test]
fn commits_after_the_step_that_learners_went_on_from_are_void() {
    let mut entries = vec![opened(), formed(1, 0), evaluated(0, "start")];
    for step in 1..=5 {
        entries.extend([granted(u64::from(step) * 8, 0), committed(step)]);
    }
    entries.extend([evaluated(3, "third"), evaluated(5, "fifth"), granted(40, 1)]);
    entries.extend([formed(2, 3), evaluated(5, "late")]);
    let found = survives(&entries);
    assert_eq!((found.generation, found.step()), (Generation(2), 3));
    let steps: Vec<u32> = found.committed.iter().map(|(record, _)| record.step).collect();
    assert_eq!(steps, [1, 2, 3]);
    assert_eq!(found.committed[2], (record(3), Duration::from_millis(3)));
    let results: Vec<(u32, &str)> =
        found.evaluations.iter().map(|((step, _), result)| (*step, result.as_str())).collect();
    assert_eq!(results, [(0, "start"), (3, "third")]);
    // What was dealt for steps 4 and 5 is still fenced off.
    let epochs: Vec<(u64, u32)> = found.epochs.iter().map(|(g, e)| (g.0, e.0)).collect();
    assert_eq!(epochs, [(8, 0), (16, 0), (24, 0), (32, 0), (40, 1)]);
    entries.extend([committed(4), evaluated(4, "again"), granted(40, 0)]);
    let found = survives(&entries);
    assert_eq!(found.step(), 4);
    assert_eq!(found.evaluations[&(4, EvalStage::During)], "again");
    assert_eq!(found.epochs[&GroupId(40)], Epoch(1), "the highest counts");
}

#[test]
fn the_shortest_journal_leaves_the_same() {
    let mut entries = vec![opened(), formed(1, 0)];
    entries.extend((1..=4).map(committed));
    entries.extend([granted(7, 0), granted(7, 2), evaluated(4, "{}"), formed(2, 4), formed(3, 2)]);
    let found = survives(&entries);
    let short = found.entries();
    assert_eq!(short.len(), 5, "{short:?}");
    assert_eq!(survives(&short), found);
    assert_eq!(survives(&[]), Surviving::default());
    assert_eq!(Surviving::default().entries(), []);
    assert_eq!(survives(&[opened()]).entries(), [opened()], "no learner formed yet");
}

#[test]
fn what_no_run_writes_is_refused() {
    assert!(refused(&[committed(1)]).contains("does not say whose it is"));
    let gap = refused(&[opened(), committed(1), committed(3)]);
    assert!(gap.contains("commits step 3 where step 2 is due"), "{gap}");
    let twice = refused(&[opened(), committed(1), committed(2), committed(2)]);
    assert!(twice.contains("commits step 2 where step 3 is due"), "{twice}");
    let ahead = refused(&[opened(), committed(1), formed(2, 3)]);
    assert!(ahead.contains("from step 3 where 1 steps are committed"), "{ahead}");
    let back = refused(&[opened(), formed(2, 0), formed(2, 0)]);
    assert!(back.contains("generation 2 form after those of generation 2"), "{back}");
    let other = JournalEntry::Opened { run: RUN + 1, format: 1 };
    assert!(refused(&[opened(), other]).contains("belongs to run 0000000000000051 and"));
    let newer = JournalEntry::Opened { run: RUN, format: 9 };
    assert!(refused(&[newer]).contains("have format 9, this program reads 1"));
    assert_eq!(survives(&[opened(), opened()]).run, Some(RUN), "it was resumed");
}
