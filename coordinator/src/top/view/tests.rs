//! Screens of several sizes.

use std::time::Duration;

use proto::{Inspection, Measured, MemberView, Wait};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use types::PolicyVersion;

use super::super::picture::{Picture, Step};

fn screen(picture: &Picture, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| frame.render_widget(picture, frame.area())).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned()).collect()
}

fn member(name: &str, leases: u32) -> MemberView {
    MemberView {
        name: name.to_owned(),
        silent: Some(Duration::from_millis(400)),
        idle: Duration::from_millis(1_250),
        leases,
        ..MemberView::default()
    }
}

fn run(members: Vec<MemberView>) -> Inspection {
    let measured = [
        ("solo_accuracy", 0.998),
        ("handoff_success_rate/token:0.25", 0.389),
        ("tandem_accuracy/token:0.25", 0.396),
    ];
    let values = measured.map(|(name, value)| (name.to_owned(), value)).into();
    Inspection {
        phase: "training".to_owned(),
        committed: 40,
        steps: 80,
        version: Some(PolicyVersion::new(1, 40)),
        idle: Duration::from_millis(200),
        members,
        measured: Some(Measured { step: 20, values }),
        ..Inspection::default()
    }
}

fn picture(members: Vec<MemberView>) -> Picture {
    let mut picture = Picture::new("runs/miniature-1".to_owned());
    let step = |n: u32| {
        let values = [
            ("handoff_success_rate", f64::from(n) / 40.0),
            ("jargon_rate", 0.5),
            ("reward_mean", 0.25),
            ("loss", -0.0125),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value)).into();
        Step { step: n, wall_seconds: f64::from(n) / 4.0, values }
    };
    picture.begins((1..=40).map(step).collect());
    picture.inspected(run(members), None);
    picture
}

#[test]
fn eighty_by_twenty_four_show_everything() {
    let mut learner = member("learner-0", 0);
    learner.waits = vec![Wait {
        what: "groups of step 41".to_owned(),
        since: Duration::from_millis(300),
        limit: Some(Duration::from_secs(30)),
    }];
    let new = MemberView { name: "weak-server-0".to_owned(), ..MemberView::default() };
    let rows = screen(&picture(vec![member("actor-0", 3), new, learner]), 80, 24);
    assert!(rows[0].starts_with("tandem runs/miniature-1") && rows[0].ends_with("q leaves"));
    assert!(rows[1].starts_with("training, step 40 of 80 ──"), "{}", rows[1]);
    assert_eq!(rows[2], "240.0 steps/min · 10 s left · weights g1s40 · last progress 0.2 s ago");
    assert_eq!(rows[3], "                     last  mean 20    held-out problems at step 20");
    assert_eq!(rows[4], "handoff success     1.000    0.762    solo                         0.998");
    assert_eq!(rows[5], "reward              0.250    0.250    handoff, token:0.25          0.389");
    assert_eq!(rows[6], "jargon              0.500    0.500    tandem, token:0.25           0.396");
    assert_eq!(rows[7], "weak tokens             –        –");
    assert_eq!(rows[9], "loss              -0.0125  -0.0125");
    assert!(rows[12].starts_with("handoff success  ") && rows[12].ends_with('█'), "{}", rows[12]);
    assert_eq!(rows[13], format!("jargon           {}", "▄".repeat(40)));
    assert_eq!(rows[15], "process            heard     got on  groups  waits for");
    assert_eq!(rows[16], "actor-0            0.4 s      1.2 s       3");
    assert_eq!(rows[17], "weak-server-0  not heard of yet");
    let waits = "learner-0          0.4 s      1.2 s       0  groups of step 41 since 0.3 s of a…";
    assert_eq!(rows[18], waits);
}

#[test]
fn what_does_not_fit_is_counted() {
    let members: Vec<MemberView> = (0..30).map(|n| member(&format!("actor-{n}"), 1)).collect();
    let rows = screen(&picture(members), 80, 24);
    assert!(rows[16].starts_with("actor-0 "), "{}", rows[16]);
    assert!(rows[22].starts_with("actor-6 "), "{}", rows[22]);
    assert_eq!(rows[23], "… and 23 more");
}

#[test]
fn narrow_wide_and_tiny_screens_show_what_they_can() {
    let picture = picture(vec![member("actor-0", 3)]);
    let narrow = screen(&picture, 40, 30);
    assert!(narrow.iter().any(|row| row == "solo                         0.998"), "{narrow:#?}");
    assert!(narrow.iter().any(|row| row.starts_with("actor-0 ")), "{narrow:#?}");
    let wide = screen(&picture, 200, 60);
    assert!(wide[4].ends_with("solo                         0.998"), "{}", wide[4]);
    for (width, height) in [(1, 1), (10, 3), (80, 5), (300, 4)] {
        assert_eq!(screen(&picture, width, height).len(), height as usize);
    }
}

#[test]
fn faults_waits_and_evaluations_are_said() {
    let mut picture = Picture::new("127.0.0.1:7000".to_owned());
    assert!(screen(&picture, 80, 24)[2].starts_with("asking the coordinator"));
    picture.failed("no route to it");
    assert_eq!(screen(&picture, 80, 24)[2], "no route to it");
    let mut evaluating = run(Vec::new());
    evaluating.phase = "evaluating before training".to_owned();
    evaluating.evaluating = Some((30, 400));
    evaluating.measured = None;
    evaluating.waits = vec!["370 rollouts".to_owned()];
    picture.inspected(evaluating, None);
    let rows = screen(&picture, 80, 24);
    assert!(rows[1].starts_with("evaluating before training, 30 of 400 rollouts ─"), "{}", rows[1]);
    assert!(rows[2].ends_with("waits for 370 rollouts"), "{}", rows[2]);
    assert!(rows[3].ends_with("nothing evaluated yet"), "{}", rows[3]);
    picture.failed("the coordinator does not answer");
    let rows = screen(&picture, 80, 24);
    assert_eq!(rows[2], "the coordinator does not answer");
    assert!(rows[1].starts_with("evaluating before training"), "what was known stays");
}
