//! Pulses and inspections, wire to domain and back. What follows from them is the coordinator's.

use std::time::Duration;

use types::{MemberId, PolicyVersion};

use super::work::millis;
use crate::pulse::{Inspection, Measured, MemberView, Pulse, WAIT_CHARS_MAX, WAITS_MAX, Wait};
use crate::wire::coordinator as wire;

fn duration(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

impl From<Pulse> for wire::Pulse {
    fn from(p: Pulse) -> Self {
        let waits = p.waits.into_iter().take(WAITS_MAX).map(Into::into).collect();
        Self { member: p.member.0, idle_ms: millis(p.idle), waits }
    }
}

/// Whatever is beyond the bounds is left out: nothing follows from it.
impl From<wire::Pulse> for Pulse {
    fn from(p: wire::Pulse) -> Self {
        let waits = p.waits.into_iter().take(WAITS_MAX).map(Into::into).collect();
        Self { member: MemberId(p.member), idle: duration(p.idle_ms), waits }
    }
}

impl From<Wait> for wire::Wait {
    fn from(w: Wait) -> Self {
        Self { what: w.what, since_ms: millis(w.since), limit_ms: w.limit.map(millis) }
    }
}

impl From<wire::Wait> for Wait {
    fn from(w: wire::Wait) -> Self {
        // What is shown on a terminal has no control characters.
        let shown = w.what.chars().filter(|c| !c.is_control()).take(WAIT_CHARS_MAX);
        Self { what: shown.collect(), since: duration(w.since_ms), limit: w.limit_ms.map(duration) }
    }
}

impl From<Inspection> for wire::Inspection {
    fn from(i: Inspection) -> Self {
        let (eval_done, eval_due) = i.evaluating.unwrap_or_default();
        Self {
            phase: i.phase,
            committed: i.committed,
            steps: i.steps,
            version: i.version.map(PolicyVersion::packed),
            idle_ms: millis(i.idle),
            waits: i.waits,
            members: i.members.into_iter().map(Into::into).collect(),
            values: i.values.into_iter().collect(),
            measured: i.measured.map(Into::into),
            eval_done,
            eval_due,
        }
    }
}

impl From<wire::Inspection> for Inspection {
    fn from(i: wire::Inspection) -> Self {
        Self {
            phase: i.phase,
            committed: i.committed,
            steps: i.steps,
            version: i.version.map(PolicyVersion::unpack),
            idle: duration(i.idle_ms),
            waits: i.waits,
            members: i.members.into_iter().map(Into::into).collect(),
            values: i.values.into_iter().collect(),
            measured: i.measured.map(Into::into),
            evaluating: (i.eval_due > 0).then_some((i.eval_done, i.eval_due)),
        }
    }
}

impl From<Measured> for wire::Measured {
    fn from(m: Measured) -> Self {
        Self { step: m.step, values: m.values.into_iter().collect() }
    }
}

impl From<wire::Measured> for Measured {
    fn from(m: wire::Measured) -> Self {
        Self { step: m.step, values: m.values.into_iter().collect() }
    }
}

impl From<MemberView> for wire::MemberView {
    fn from(m: MemberView) -> Self {
        Self {
            name: m.name,
            admin_address: m.admin_address,
            silent_ms: m.silent.map(millis),
            idle_ms: millis(m.idle),
            leases: m.leases,
            waits: m.waits.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::MemberView> for MemberView {
    fn from(m: wire::MemberView) -> Self {
        Self {
            name: m.name,
            admin_address: m.admin_address,
            silent: m.silent_ms.map(duration),
            idle: duration(m.idle_ms),
            leases: m.leases,
            waits: m.waits.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_is_bounded_and_fit_for_a_terminal_whoever_sent_it() {
        let wait = |what: &str| wire::Wait { what: what.to_owned(), since_ms: 7, limit_ms: None };
        let long = "x".repeat(WAIT_CHARS_MAX + 50);
        let mut waits = vec![wait("\u{1b}[2Jthe sums of rank 1\n"), wait(&long)];
        waits.resize(1000, wait("more"));
        let pulse = Pulse::from(wire::Pulse { member: 3, idle_ms: 5, waits });
        assert_eq!((pulse.member, pulse.idle), (MemberId(3), Duration::from_millis(5)));
        assert_eq!(pulse.waits.len(), WAITS_MAX);
        assert_eq!(pulse.waits[0].what, "[2Jthe sums of rank 1");
        assert_eq!(pulse.waits[1].what, "x".repeat(WAIT_CHARS_MAX));
        let again = Pulse::from(wire::Pulse::from(pulse.clone()));
        assert_eq!(again, pulse);
    }

    #[test]
    fn an_inspection_comes_back_as_it_was() {
        let wait = Wait {
            what: "groups of step 4".to_owned(),
            since: Duration::from_millis(1500),
            limit: Some(Duration::from_secs(30)),
        };
        let member = MemberView {
            name: "learner-0".to_owned(),
            admin_address: "127.0.0.1:9000".to_owned(),
            silent: Some(Duration::from_millis(120)),
            idle: Duration::from_millis(80),
            leases: 3,
            waits: vec![wait],
        };
        let inspection = Inspection {
            phase: "training".to_owned(),
            committed: 3,
            steps: 80,
            version: Some(PolicyVersion::new(2, 3)),
            idle: Duration::from_secs(2),
            waits: vec!["train groups 24".to_owned()],
            members: vec![member, MemberView::default()],
            values: [("loss".to_owned(), 0.25)].into(),
            measured: Some(Measured { step: 2, values: [("solo".to_owned(), 0.5)].into() }),
            evaluating: Some((3, 400)),
        };
        assert_eq!(Inspection::from(wire::Inspection::from(inspection.clone())), inspection);
    }
}
