//! Tallies by hand, and every way in which a report is refused.

use std::time::Duration;

use proto::WorkItem;
use types::{Epoch, LeaseId, Problem, Purpose, Share};

use super::*;
use crate::fixtures::{Script, group};

const VERSION: PolicyVersion = PolicyVersion { generation: types::Generation(1), step: 4 };

fn plan(problems: u32) -> EvalPlan {
    EvalPlan::full(&Settings::default(), problems)
}

fn item(run: &EvalRun, group: GroupId) -> WorkItem {
    let (arm, ordinal) = run.locate(group).unwrap();
    let (question, answer) = (String::new(), String::new());
    WorkItem {
        lease: LeaseId(1),
        group,
        epoch: Epoch(0),
        deadline: Duration::from_secs(1),
        purpose: Purpose::Eval,
        schedule: arm.schedule.to_string(),
        samples: 1,
        key_group: GroupId(ordinal),
        problem: Problem { id: ordinal, question, solution: None, answer },
        sampling: arm.sampling.clone(),
    }
}

#[test]
fn arms_are_the_table_and_weak_alone_is_left_out_on_request() {
    let kinds: Vec<ArmKind> = plan(3).arms.into_iter().map(|arm| arm.kind).collect();
    let tandem = |text: &str| ArmKind::Tandem(text.to_owned());
    let expected = [
        ArmKind::Solo,
        tandem("token:0.25"),
        tandem("line:0.5"),
        ArmKind::SoloGreedy,
        ArmKind::WeakAlone,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(plan(3).without_weak_alone().rollouts(), 12);
    assert_eq!(plan(3).arms[3].sampling.temperature, 0.0);
}

#[test]
fn results_are_the_tallies() {
    let mut run = EvalRun::new(plan(4), 100);
    for id in run.groups() {
        let (_, ordinal) = run.locate(id).unwrap();
        let mut script = Script::right(VERSION);
        script.correct = ordinal > 0;
        script.finish = if ordinal == 0 { Finish::Truncated } else { Finish::End };
        script.jargon = Share { count: ordinal as u32, of: 6 };
        let done = group(&item(&run, id), script);
        run.record(&done, ordinal, VERSION).unwrap();
    }
    assert!(run.is_complete());
    let result = run.result();
    assert_eq!(result.solo_accuracy, Some(0.75));
    assert_eq!(result.jargon_rate, Some(0.25));
    assert_eq!(result.tandem_accuracy.get("line:0.5"), Some(0.75));
    assert_eq!(result.handoff_success_rate.get("token:0.25"), Some(0.75));
    assert_eq!((result.weak_solo_accuracy, result.plain_solo_accuracy), (Some(0.75), None));
}

#[test]
fn what_was_not_asked_for_is_refused() {
    let mut run = EvalRun::new(plan(2), 0);
    let right = Script::right(VERSION);
    let (solo, tandem) = (GroupId(0), GroupId(2));
    let mut refused = |group: &RolloutGroup| run.record(group, 0, VERSION).unwrap_err().to_string();

    let run = EvalRun::new(plan(2), 0);
    let mut other = group(&item(&run, tandem), right);
    other.schedule = "token:0.5".to_owned();
    assert!(refused(&other).contains("under 'token:0.5' instead of 'token:0.25'"));

    let mut other = group(&item(&run, tandem), right);
    other.schedule = "token:0".to_owned();
    other.group = solo;
    assert!(refused(&other).contains("an author that its schedule excludes"));

    let stale = Script::right(PolicyVersion::new(1, 3));
    assert!(refused(&group(&item(&run, solo), stale)).contains("g1s3 while g1s4"));

    let mut other = group(&item(&run, solo), right);
    other.problem.id = 1;
    assert!(refused(&other).contains("problem 1 instead of 0"));

    let mut asked = item(&run, solo);
    asked.sampling.temperature = 0.5;
    assert!(refused(&group(&asked, right)).contains("sampled in another way"));
    asked.samples = 2;
    assert!(refused(&group(&asked, right)).contains("2 samples"));
}
