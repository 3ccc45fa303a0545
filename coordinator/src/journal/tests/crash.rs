//! A process that dies at any point of the journal's writing has kept its word.

use std::fs::{self, File};
use std::io::Write;

use ::tests::{Alone, die_at, run_alone, say, task};

use super::*;

const CHILD: &str = "journal::tests::crash::appends_until_it_is_killed";
/// All of the journal, and how often one process passes each at least.
const POINTS: [(&str, u32); 10] = [
    ("journal::fresh", 1),
    ("journal::fresh_written", 1),
    ("journal::fresh_synced", 1),
    ("journal::renamed", 1),
    ("journal::directory_synced", 1),
    ("journal::recovered", 1),
    ("journal::write", WAVES),
    ("journal::written", WAVES),
    ("journal::synced", WAVES),
    ("journal::sealed", WAVES),
];
const ROUNDS: u32 = 10;
const WAVES: u32 = 4;
const WAVE_ENTRIES: u64 = 6;

/// Opens, compacts and appends, wave by wave, saying what was acknowledged.
#[test]
#[ignore = "row 5 runs it as a process of its own"]
fn appends_until_it_is_killed() {
    let Some(task) = task() else { return };
    let [dir, point, hit] = task.split(' ').collect::<Vec<_>>().try_into().unwrap();
    die_at(point, hit.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (file, recovered) = JournalFile::open(&Path::new(dir).join("journal")).unwrap();
        let file = file.rewrite(&recovered.entries).unwrap();
        let tasks = group();
        let journal = Journal::start(file, &tasks, LIMITS).unwrap();
        let mut next = recovered.entries.len() as u64;
        for _ in 0..WAVES {
            let wave = next..next + WAVE_ENTRIES;
            let tickets: Vec<_> = wave.map(|number| journal.append(&numbered(number))).collect();
            for ticket in tickets {
                ticket.durable().await.unwrap();
                next += 1;
                say(&next.to_string());
            }
        }
        end(journal, &tasks).await;
    });
}

/// One crash on top of what earlier ones left; returns how many entries are known to be there.
fn crash(dir: &Path, point: &str, hit: u32, known: u64) -> u64 {
    let path = dir.join("journal");
    let task = format!("{} {point} {hit}", dir.display());
    let child: Alone = run_alone(CHILD, &task);
    assert!(child.was_killed(), "{point}, hit {hit}: {:?}\n{}", child.status, child.output);
    let acknowledged = child.said.last().map_or(known, |said| said.parse().unwrap());
    let found = entries_in(&path);
    let count = found.len() as u64;
    assert!(count >= acknowledged, "{point}, hit {hit}: {count} of {acknowledged} are left");
    assert_eq!(found, (0..count).map(numbered).collect::<Vec<_>>(), "{point}, hit {hit}");
    count
}

#[test]
fn row_5_what_was_acknowledged_survives_a_kill_at_every_point() {
    let mut crashes = 0;
    for (point, passes) in POINTS {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal");
        let mut known = 0;
        for round in 0..ROUNDS {
            if point == "journal::recovered" {
                JournalFile::open(&path).unwrap();
            }
            // Half of the processes find what one before them left unfinished.
            if round % 2 == 1 && path.exists() {
                let mut file = File::options().append(true).open(&path).unwrap();
                file.write_all(&[0x55; 37]).unwrap();
            }
            known = crash(root.path(), point, 1 + round % passes, known);
            crashes += 1;
        }
        let stray = fs::read_dir(root.path()).unwrap().count();
        assert!(stray <= 2, "{point}: {stray} files");
    }
    println!("row 5: {crashes} of {crashes} kills left all that was acknowledged");
    assert_eq!(crashes, 100);
}
