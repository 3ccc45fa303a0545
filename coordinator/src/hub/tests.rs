//! What everyone who watches sees, and what a full disk does.

use std::path::Path;
use std::task::{Context, Wake, Waker};

use proto::Role;
use settings::Settings;
use types::{GroupId, MemberId};

use super::*;
use crate::fixtures::registration;
use crate::source::Source;
use crate::spec::RunSpec;
use crate::state::Phase;

fn hub(log: Option<MetricsLog>) -> Hub {
    let mut settings = Settings::default();
    settings.eval.enabled = false;
    settings.train.steps = 1;
    let source = Source::open(&settings).unwrap();
    let spec = RunSpec::launch(&settings, &source, 1).unwrap();
    Hub::new(RunState::new(spec, source), 2, Records { log, ..Records::default() })
}

fn register(hub: &Hub, role: Role) -> MemberId {
    let registration = registration(role, 0, "");
    let member = registration.member;
    assert_eq!(hub.change(|state| state.register(registration)), Ok(0));
    member
}

/// Is woken in the middle of an announcement, and looks whether the state could change meanwhile.
struct Probe {
    hub: Hub,
    found_locked: Mutex<Vec<bool>>,
}

impl Wake for Probe {
    fn wake(self: Arc<Self>) {
        let locked = self.hub.0.state.try_lock().is_err();
        lock(&self.found_locked).push(locked);
    }
}

#[test]
fn directives_cannot_go_back_for_none_overtakes_another() {
    let hub = hub(None);
    register(&hub, Role::Learner);
    let mut directives = hub.directives();
    let probe = Arc::new(Probe { hub: hub.clone(), found_locked: Mutex::default() });
    let mut news = Box::pin(directives.changed());
    let waker = Waker::from(Arc::clone(&probe));
    assert!(news.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let version = PolicyVersion::new(1, 0);
    hub.change(|state| state.publish(version)).unwrap();
    drop(news);
    assert_eq!(directives.borrow().version, Some(version));
    assert_eq!(*lock(&probe.found_locked), [true]);
}

#[test]
fn a_step_whose_line_cannot_be_written_fails_the_run_even_if_it_is_the_last() {
    let hub = hub(Some(MetricsLog::create(Path::new("/dev/full")).unwrap()));
    let learner = register(&hub, Role::Learner);
    register(&hub, Role::Actor);
    register(&hub, Role::WeakServer);
    hub.change(|state| state.publish(PolicyVersion::new(1, 0))).unwrap();
    let record = StepRecord {
        member: learner,
        step: 1,
        version: PolicyVersion::new(1, 1),
        groups: (0..8).map(GroupId).collect(),
        groups_trained: 8,
        ..StepRecord::default()
    };
    let refusal = hub.commit(&record).unwrap_err().to_string();
    assert!(refusal.starts_with("step 1 is not committed: cannot write /dev/full"), "{refusal}");
    let (phase, committed) = hub.with(|state| (state.phase().clone(), state.committed()));
    assert!(matches!(&phase, Phase::Failed(why) if why.contains("disk full")), "{phase:?}");
    assert_eq!(committed, 0);
}
