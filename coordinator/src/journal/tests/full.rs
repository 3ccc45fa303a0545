//! A disk that is full, fails or is stuck: one clear error, then nothing is acknowledged any more.

use ::tests::{limit_files, run_alone, say, task};

use super::*;

fn child(name: &str, dir: &Path) -> Vec<String> {
    let name = format!("journal::tests::full::{name}");
    let child = run_alone(&name, dir.to_str().unwrap());
    assert!(child.status.success(), "{}", child.output);
    child.said
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Appends until an entry fails; checks that all after it fail alike, and says how many did not.
async fn until_it_fails(dir: &Path, expected: &str) {
    let path = dir.join("journal");
    let (file, recovered) = JournalFile::open(&path).unwrap();
    let tasks = group();
    let journal = Journal::start(file, &tasks, LIMITS).unwrap();
    let first = recovered.entries.len() as u64;
    let mut failure = None;
    for number in first..first + 1_000 {
        match (journal.append(&numbered(number)).durable().await, &failure) {
            (Ok(()), None) => say(&(number + 1).to_string()),
            (Err(error), None) => failure = Some(error.to_string()),
            (outcome, Some(first)) => assert_eq!(outcome.unwrap_err().to_string(), *first),
        }
    }
    let failure = failure.expect("the disk is full");
    assert!(failure.contains(expected) && failure.contains("is the disk full?"), "{failure}");
    assert!(failure.contains(path.to_str().unwrap()), "{failure}");
    assert_eq!(journal.failed(), Some(failure));
    end(journal, &tasks).await;
}

fn check_after(dir: &Path, acknowledged: u64) {
    let path = dir.join("journal");
    let length = std::fs::metadata(&path).unwrap().len();
    let (_, recovered) = JournalFile::open(&path).unwrap();
    assert_eq!(recovered.cut, None, "the failed write left nothing");
    assert_eq!(recovered.entries, (0..acknowledged).map(numbered).collect::<Vec<_>>());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["journal"], "no partial file");
}

#[test]
#[ignore = "row 14 runs it as a process of its own"]
fn fills_the_disk() {
    let Some(dir) = task() else { return };
    limit_files(100_000);
    runtime().block_on(until_it_fails(Path::new(&dir), "File too large"));
}

#[test]
#[ignore = "row 14 runs it as a process of its own"]
fn starts_on_a_full_disk() {
    let Some(dir) = task() else { return };
    let path = Path::new(&dir).join("journal");
    let (file, recovered) = JournalFile::open(&path).unwrap();
    limit_files(1_000);
    let error = file.rewrite(&recovered.entries).unwrap_err().to_string();
    assert!(error.contains("File too large") && error.contains("is the disk full?"), "{error}");
    let elsewhere = Path::new(&dir).join("elsewhere");
    limit_files(10);
    let opened = JournalFile::open(&elsewhere);
    // What libtest prints goes to a file, too.
    limit_files(u64::MAX);
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("cannot write the journal"), "{error}");
    assert!(error.contains(elsewhere.to_str().unwrap()), "{error}");
}

#[test]
fn row_14_a_full_disk_stops_the_journal_and_harms_nothing() {
    let root = tempfile::tempdir().unwrap();
    let said = child("fills_the_disk", root.path());
    let acknowledged: u64 = said.last().unwrap().parse().unwrap();
    assert!(acknowledged > 10, "{acknowledged}");
    check_after(root.path(), acknowledged);
    child("starts_on_a_full_disk", root.path());
    check_after(root.path(), acknowledged);
    println!("row 14, journal: {acknowledged} entries acknowledged, all there, none after");
}

#[test]
#[ignore = "another test runs it as a process of its own"]
fn syncs_on_a_failing_disk() {
    let Some(dir) = task() else { return };
    // Later ones would succeed, and must not be believed.
    fail::cfg("journal::written", "5*off->1*return->off").unwrap();
    runtime().block_on(until_it_fails(Path::new(&dir), "injected"));
}

#[test]
fn after_a_failed_sync_nothing_is_believed() {
    let root = tempfile::tempdir().unwrap();
    let said = child("syncs_on_a_failing_disk", root.path());
    assert_eq!(said, ["1", "2", "3", "4", "5"]);
    check_after(root.path(), 5);
}

#[test]
#[ignore = "another test runs it as a process of its own"]
fn waits_for_a_stuck_disk() {
    let Some(dir) = task() else { return };
    fail::cfg("journal::write", "pause").unwrap();
    runtime().block_on(async {
        let (file, _) = JournalFile::open(&Path::new(&dir).join("journal")).unwrap();
        let tasks = group();
        let limits = JournalLimits { timeout: Duration::from_millis(50), queue_bytes: 20 };
        let journal = Journal::start(file, &tasks, limits).unwrap();
        let late = journal.append(&granted(0, 0)).durable().await.unwrap_err().to_string();
        assert!(late.contains("after 50 ms (coordinator.journal_timeout_ms)"), "{late}");
        let tickets: Vec<Ticket> = (1..20).map(|i| journal.append(&granted(i, 0))).collect();
        fail::remove("journal::write");
        let mut refused = 0;
        for ticket in tickets {
            if let Err(error) = ticket.durable().await {
                let text = error.to_string();
                // Others may be late on a busy machine, and are there all the same.
                if !text.contains("after 50 ms (coordinator.journal_timeout_ms)") {
                    let waited = text.split_once("had no room for ").map(|(_, rest)| rest);
                    let waited = waited.and_then(|rest| rest.split_once(" ms")).unwrap().0;
                    assert!(waited.parse::<u64>().unwrap() >= 50, "{text}");
                    assert!(text.contains("journal_queue_bytes"), "{text}");
                    refused += 1;
                }
            }
        }
        say(&refused.to_string());
        end(journal, &tasks).await;
    });
}

#[test]
fn waiting_for_a_stuck_disk_has_an_end() {
    let root = tempfile::tempdir().unwrap();
    let said = child("waits_for_a_stuck_disk", root.path());
    let refused: u64 = said[0].parse().unwrap();
    let kept = entries_in(&root.path().join("journal")).len() as u64;
    // The first was late and is there all the same; what the queue had no room for is not.
    assert_eq!(kept, 20 - refused);
    assert!(refused > 10, "{refused}");
}
