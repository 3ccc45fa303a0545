//! Tallies by hand, and every way in which a report is refused.

use std::time::Duration;

use proto::WorkItem;
use settings::Grader;
use types::{Epoch, LeaseId, Problem, Purpose, Share};

use super::*;
use crate::fixtures::{Script, group};

const VERSION: PolicyVersion = PolicyVersion { generation: types::Generation(1), step: 4 };

fn plan(problems: u32) -> EvalPlan {
    EvalPlan::full(&Settings::default(), problems)
}

fn item(run: &EvalRun, group: GroupId) -> WorkItem {
    let (arm, ordinal) = run.locate(group).unwrap();
    WorkItem {
        lease: LeaseId(1),
        group,
        epoch: Epoch(0),
        deadline: Duration::from_secs(1),
        purpose: Purpose::Eval,
        schedule: arm.schedule.to_string(),
        samples: arm.samples,
        key_group: GroupId(ordinal),
        problem: problem(ordinal),
        sampling: arm.sampling.clone(),
    }
}

fn problem(id: u64) -> Problem {
    let (question, answer) = (String::new(), "1,018".to_owned());
    Problem { id, question, solution: None, answer, shots: Vec::new(), lead: None }
}

/// The group with these texts, one a sample; a text that ends in `…` was cut off.
fn with_texts(group: RolloutGroup, texts: &[&str]) -> RolloutGroup {
    let said = |(rollout, text): (Rollout, &&str)| {
        let mut parts = rollout.into_parts();
        parts.verdict.text = (*text).to_owned();
        parts.finish = if text.ends_with('…') { Finish::Truncated } else { Finish::End };
        Rollout::new(parts).unwrap()
    };
    assert_eq!(group.samples.len(), texts.len());
    let samples = group.samples.into_iter().zip(texts).map(said).collect();
    RolloutGroup { samples, ..group }
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
    let mut settings = Settings::default();
    settings.eval.samples = 4;
    let sampled = EvalPlan::full(&settings, 3).sampled_once();
    assert_eq!(sampled.rollouts(), plan(3).rollouts());
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
        run.record(&done, &problem(ordinal), VERSION).unwrap();
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
    let mut refused =
        |group: &RolloutGroup| run.record(group, &problem(0), VERSION).unwrap_err().to_string();

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
    assert!(refused(&group(&asked, right)).contains("2 samples instead of 1"));
}

#[test]
fn every_grader_reads_every_sample_of_the_same_texts() {
    let mut settings = Settings::default();
    (settings.data.source, settings.reward.grader) = (DataSource::Gsm8k, Grader::VerlFlexible);
    (settings.eval.samples, settings.eval.pass_at) = (4, vec![1, 4]);
    settings.eval.schedules = vec!["line:0.5".to_owned()];
    let mut run = EvalRun::new(EvalPlan::full(&settings, 2), 7);
    assert_eq!((run.group_count(), run.rollouts()), (8, 26), "greedy once, the others four times");
    let texts = ["#### 1018", "It is $1,018", "#### 1018…", "#### $1018.00"];
    for id in run.groups() {
        let (arm, ordinal) = run.locate(id).unwrap();
        let (kind, samples) = (arm.kind.clone(), arm.samples as usize);
        let wrong = vec!["#### 7"; samples];
        let texts = match (kind, ordinal) {
            (ArmKind::Solo | ArmKind::SoloGreedy, 0) => &texts[..samples],
            _ => wrong.as_slice(),
        };
        let done = with_texts(group(&item(&run, id), Script::right(VERSION)), texts);
        run.record(&done, &problem(ordinal), VERSION).unwrap();
    }
    assert!(run.is_complete() && run.done() == 26);
    let result = run.result();
    let value = |arm: &str, grader: &str, k: u32| {
        let mut lines = result.pass_at.iter();
        lines.find(|l| l.arm == arm && l.grader == grader && l.k == k).map(|l| l.value)
    };
    // Of the first problem's four; of the second, none.
    for (grader, right) in
        [("own", 2.0), ("lm-eval-strict", 2.0), ("lm-eval-flexible", 3.0), ("verl-flexible", 2.0)]
    {
        assert_eq!(value("solo", grader, 1), Some(right / 8.0), "{grader}");
        assert_eq!(value("solo", grader, 4), Some(0.5), "{grader}");
        assert_eq!(value("solo_greedy", grader, 1), Some(0.5), "{grader}");
        assert_eq!(value("solo_greedy", grader, 4), None, "one sample has no pass@4");
        assert_eq!(value("line:0.5", grader, 4), Some(0.0), "{grader}");
    }
    let greedy = result.pass_at.iter().find(|l| l.arm == "solo_greedy").unwrap();
    assert!((greedy.low - 0.094_531_2).abs() < 1e-6 && greedy.high > 0.9, "Wilson: {greedy:?}");
    assert_eq!(result.solo_accuracy, Some(1.0), "by the verdicts");
    let miniature = EvalRun::new(plan(3), 0).result().pass_at;
    assert!(miniature.iter().all(|line| line.grader == "own" && line.value == 0.0));
}

#[test]
fn a_probe_contrasts_the_styles_over_the_same_problems() {
    let mut settings = Settings::default();
    settings.data.source = DataSource::Gsm8k;
    let schedule = settings.train_schedule().unwrap();
    let mut run = EvalRun::new(EvalPlan::probe(&settings, 40, schedule), 0);
    let kinds: Vec<&str> = run.plan.arms.iter().map(|arm| arm.kind.name()).collect();
    let expected =
        ["weak_after_plain", "weak_after_annotated", "tandem_led_plain", "tandem_led_annotated"];
    assert_eq!(kinds, expected);
    // Plain solutions are all followed by the weak model alone; in tandem one in two, of either.
    for id in run.groups() {
        let (arm, ordinal) = run.locate(id).unwrap();
        let right = match arm.kind {
            ArmKind::WeakAfter(style) => style == SolutionStyle::Plain || ordinal % 4 == 0,
            _ => ordinal % 2 == 0,
        };
        let text = if right { "#### 1018" } else { "#### 7" };
        let done = with_texts(group(&item(&run, id), Script::right(VERSION)), &[text]);
        run.record(&done, &problem(ordinal), VERSION).unwrap();
    }
    let probe = run.result().probe.unwrap();
    let Contrast { plain, annotated, difference, low, high } = probe.weak_after.clone();
    assert_eq!((plain, annotated, difference), (1.0, 0.25, 0.75));
    assert!(low > 0.5 && high < 0.9, "{low} to {high}");
    assert_eq!(probe.weak_after.verdict(), Verdict::PlainPays);
    assert_eq!(probe.tandem_led.difference, 0.0);
    assert_eq!(probe.tandem_led.verdict(), Verdict::NoEffectExpected);
    let text = probe.lines();
    assert!(text.contains("1.000") && text.contains("no effect is to be expected"), "{text}");
    let worse = Contrast { low: -0.5, high: -0.1, ..probe.weak_after };
    assert_eq!(worse.verdict(), Verdict::AnnotationsPay);
    assert_eq!(EvalRun::new(plan(3), 0).result().probe, None);
}
