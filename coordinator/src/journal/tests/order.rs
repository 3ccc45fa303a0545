//! Group commit: order, tickets, closing, bounds.

use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn start(path: &Path, tasks: &TaskGroup, limits: JournalLimits) -> Journal {
    let (file, _) = JournalFile::open(path).unwrap();
    Journal::start(file, tasks, limits).unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    for run in 0..3 {
        let tasks = group();
        let journal = start(&path, &tasks, LIMITS);
        for number in run * 20..run * 20 + 20 {
            journal.append(&numbered(number)).durable().await.unwrap();
            // Read by its path while it is in use: the file itself, not what the writer knows.
            let found = scan(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(found.entries.len() as u64, number + 1);
        }
        assert_eq!(journal.failed(), None);
        end(journal, &tasks).await;
    }
    assert_eq!(entries_in(&path), (0..60).map(numbered).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_takes_no_more() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let tasks = group();
    let journal = start(&path, &tasks, LIMITS);
    let tickets: Vec<Ticket> = (0..200).map(|number| journal.append(&numbered(number))).collect();
    journal.close();
    let late = journal.append(&numbered(200)).durable().await.unwrap_err();
    assert_eq!(late.to_string(), "the journal is closed: the run is ending");
    tasks.join(AMPLE).await.unwrap();
    for ticket in tickets {
        ticket.durable().await.unwrap();
    }
    assert_eq!(entries_in(&path), (0..200).map(numbered).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_or_the_last_drop_ends_the_writer() {
    let root = tempfile::tempdir().unwrap();
    let tasks = group();
    let journal = start(&root.path().join("stopped"), &tasks, LIMITS);
    tasks.shutdown().trigger("test");
    tasks.join(AMPLE).await.unwrap();
    let late = journal.append(&numbered(0)).durable().await.unwrap_err();
    assert!(matches!(late, JournalError::Closed));
    let tasks = group();
    let ticket = start(&root.path().join("dropped"), &tasks, LIMITS).append(&numbered(0));
    tasks.join(AMPLE).await.unwrap();
    ticket.durable().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let tasks = group();
    let journal = start(&path, &tasks, LIMITS);
    let largest = "x".repeat(ENTRY_BYTES_MAX - 12);
    let too_large = journal.append(&evaluated(1, &"x".repeat(ENTRY_BYTES_MAX)));
    // Each by itself is more than the queue takes; none blocks for ever.
    let large: Vec<Ticket> = (2..8).map(|i| journal.append(&evaluated(i, &largest))).collect();
    let error = too_large.durable().await.unwrap_err().to_string();
    assert!(error.contains("bytes, more than the 1048576 that the journal takes"), "{error}");
    for ticket in large {
        ticket.durable().await.unwrap();
    }
    end(journal, &tasks).await;
    assert_eq!(entries_in(&path), (2..8).map(|i| evaluated(i, &largest)).collect::<Vec<_>>());
}

#[test]
fn a_rewritten_file_holds_what_it_was_given() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal");
    let (file, _) = JournalFile::open(&path).unwrap();
    // More than one frame takes.
    let large = "x".repeat(ENTRY_BYTES_MAX - 12);
    let entries: Vec<_> = (0..9).map(|i| evaluated(i, &large)).collect();
    let file = file.rewrite(&entries).unwrap();
    assert_eq!(file.durable(), 9);
    assert_eq!(entries_in(&path), entries);
    file.rewrite(&[opened()]).unwrap();
    assert_eq!(entries_in(&path), [opened()]);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    })]

    /// Threads append under one lock, as the hub does, and wait or go on as they like.
    #[test]
    fn the_file_has_the_order_of_the_appends(
        threads in prop::collection::vec(prop::collection::vec(any::<(u8, bool)>(), 1..12), 1..6),
        queue_bytes in 1usize..4_000,
    ) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = group();
        let journal = start(&path, &tasks, JournalLimits { timeout: AMPLE, queue_bytes });
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (index, steps) in (0u64..).zip(&threads) {
                let (journal, order) = (&journal, &order);
                scope.spawn(move || {
                    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
                    let clock = clock.unwrap();
                    for (number, (spin, waits)) in (0u32..).zip(steps) {
                        (0..*spin).for_each(|_| std::thread::yield_now());
                        let entry = granted(index, number);
                        let mut order = order.lock().unwrap();
                        let ticket = journal.append(&entry);
                        order.push(entry);
                        drop(order);
                        if *waits {
                            clock.block_on(ticket.durable()).unwrap();
                        }
                    }
                });
            }
        });
        runtime.block_on(end(journal, &tasks));
        prop_assert_eq!(entries_in(&path), order.into_inner().unwrap());
    }
}
