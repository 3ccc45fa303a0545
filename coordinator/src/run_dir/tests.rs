//! Which directories a run may take, and what is found in one.

use super::*;

fn refused(path: &Path) -> String {
    RunDir::create(Some(path), "x").unwrap_err().to_string()
}

#[test]
fn a_run_that_never_began_leaves_its_directory_to_the_next() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("new/run");
    let run = RunDir::create(Some(&path), "x").unwrap();
    assert!(RunDir::open(&path).unwrap_err().to_string().contains("no config.toml"));
    fs::write(run.config(), "seed = 1").unwrap();
    fs::write(run.metrics(), "").unwrap();
    fs::create_dir(path.join("checkpoints")).unwrap();
    drop(run);
    let run = RunDir::create(Some(&path), "x").unwrap();
    fs::write(run.metrics(), "{}\n").unwrap();
    drop(run);
    let text = refused(&path);
    assert!(text.contains("holds a run already") && text.contains("--run-dir"), "{text}");
    assert_eq!(RunDir::open(&path).unwrap().path(), path);
}

#[test]
fn a_run_under_way_keeps_its_directory_to_itself() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDir::create(Some(root.path()), "x").unwrap();
    let text = refused(root.path());
    assert!(text.contains("a run is under way") && text.contains("--run-dir"), "{text}");
    fs::write(run.config(), "seed = 1").unwrap();
    let clone = run.clone();
    drop(run);
    assert!(refused(root.path()).contains("a run is under way"), "in its first evaluation");
    let watched = RunDir::open(root.path()).unwrap();
    assert_ne!(watched.processes("eval-"), watched.processes(""));
    drop(clone);
    assert!(RunDir::create(Some(root.path()), "x").is_ok(), "it ended before its first step");
}

#[test]
fn a_learner_that_was_there_first_has_taken_nothing() {
    let root = tempfile::tempdir().unwrap();
    for name in ["checkpoints", "rollouts"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    drop(RunDir::create(Some(root.path()), "x").unwrap());
    let other = tempfile::tempdir().unwrap();
    fs::create_dir_all(other.path().join("checkpoints/step-000001")).unwrap();
    assert!(refused(other.path()).contains("is not empty"));
}

#[test]
fn what_somebody_else_wrote_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    for name in ["config.toml", "thesis.tex", "logs", "rollouts", "metrics.jsonl"] {
        let dir = root.path().join(format!("with-{name}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), "by hand").unwrap();
        let text = refused(&dir);
        assert!(text.contains("--run-dir"), "{text}");
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "by hand");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}

#[test]
fn names_count_up() {
    let root = tempfile::tempdir().unwrap();
    let stem = root.path().join("runs/miniature");
    let first = RunDir::first_free(&stem).unwrap();
    let second = RunDir::first_free(&stem).unwrap();
    assert!(first.path().ends_with("runs/miniature-1"));
    assert!(second.path().ends_with("runs/miniature-2"));
}

#[test]
fn checkpoints_are_found_by_step_and_torn_ones_are_not() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDir::create(Some(root.path()), "x").unwrap();
    let none = run.checkpoint(CheckpointChoice::Latest).unwrap_err().to_string();
    assert!(none.contains("no checkpoint yet"), "{none}");
    for name in ["step-000020", "step-000100", "step-000040", ".unfinished-step-000120"] {
        let dir = root.path().join("checkpoints").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(STATE), "").unwrap();
    }
    fs::create_dir(root.path().join("checkpoints/step-000140")).unwrap();
    fs::write(root.path().join("checkpoints/step-000140").join(WEIGHTS), "").unwrap();
    assert_eq!(run.checkpoint(CheckpointChoice::Latest).unwrap().step, 100);
    assert_eq!(run.checkpoint("40".parse().unwrap()).unwrap().step, 40);
    assert_eq!(run.checkpoint("step-000020".parse().unwrap()).unwrap().step, 20);
    let text = run.checkpoint(CheckpointChoice::Step(7)).unwrap_err().to_string();
    assert!(text.contains("step 7; there are 20, 40, 100"), "{text}");
    assert!("newest".parse::<CheckpointChoice>().is_err());
}
