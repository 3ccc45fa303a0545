//! What everyone who watches sees, and what a full disk does.

use std::path::Path;
use std::thread;

use proto::{Registration, Role};
use settings::Settings;
use types::GroupId;

use super::*;
use crate::source::Source;
use crate::spec::RunSpec;
use crate::state::Phase;

fn hub(log: Option<MetricsLog>) -> Hub {
    let mut settings = Settings::default();
    settings.eval.enabled = false;
    settings.train.steps = 1;
    let source = Source::open(&settings).unwrap();
    let spec = RunSpec::launch(&settings, &source, 1).unwrap();
    Hub::new(RunState::new(spec, source), 2, log)
}

#[test]
fn directives_never_go_back() {
    const THREADS: u32 = 4;
    const VERSIONS: u32 = 2_000;
    let hub = hub(None);
    thread::scope(|scope| {
        for first in 0..THREADS {
            let hub = &hub;
            scope.spawn(move || {
                for step in 0..VERSIONS {
                    let version = PolicyVersion::new(1, step * THREADS + first);
                    hub.change(|state| state.publish(version));
                    let announced = hub.directives().borrow().version;
                    assert!(announced >= Some(version), "{announced:?} after {version}");
                }
            });
        }
    });
    let last = PolicyVersion::new(1, VERSIONS * THREADS - 1);
    assert_eq!(hub.directives().borrow().version, Some(last));
}

#[test]
fn a_step_whose_line_cannot_be_written_fails_the_run_even_if_it_is_the_last() {
    let hub = hub(Some(MetricsLog::create(Path::new("/dev/full")).unwrap()));
    let register = |role: Role| {
        let (address, admin_address) = (String::new(), String::new());
        let registration = Registration { role, index: 0, address, admin_address };
        hub.change(|state| state.register(registration))
    };
    let learner = register(Role::Learner);
    register(Role::Actor);
    register(Role::WeakServer);
    hub.change(|state| state.publish(PolicyVersion::new(1, 0)));
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
