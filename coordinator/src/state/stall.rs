//! What a run may wait for and for how long: members that are gone, and work that does not move.

use std::time::Duration;

use proto::{Departure, Role};
use types::{GroupId, MemberId};

use super::{Event, Phase, RunState, Stage};
use crate::spec::TrainingWork;

/// Ranges of groups, each with one holder, that a report names.
const RANGES_NAMED: usize = 8;

/// What moves while a run gets on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks {
    phase: Phase,
    /// Of a run that starts: the fewest processes that were not there, so that one which comes and
    /// goes moves nothing.
    missing: usize,
    committed: u32,
    train_completed: u64,
    eval_completed: u64,
}

/// The last marks that differed from those before, and when they were first seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    marks: Option<Marks>,
    since: Duration,
    /// Why the last group since then was dealt again.
    last_return: Option<String>,
}

impl Progress {
    pub(super) fn note_return(&mut self, what: String) {
        self.last_return = Some(what);
    }
}

impl RunState {
    /// A member is gone. Its groups go to others; for one that nobody can stand in for the run
    /// waits until it is back.
    pub(super) fn lose(&mut self, member: MemberId, now: Duration) {
        if let Some(name) = self.remove(member, None, now) {
            self.events.push(Event::Left(name));
        }
    }

    /// What it was called, if it was still there.
    pub(super) fn remove(
        &mut self,
        member: MemberId,
        how: Option<Departure>,
        now: Duration,
    ) -> Option<String> {
        let gone = self.members.leave(member)?;
        let name = gone.name();
        self.departures.left(gone, how, now);
        self.release(member);
        self.unform(member);
        self.count_actors();
        Some(name)
    }

    /// Says when there are too few actors to go on, and when there are enough again.
    pub(super) fn count_actors(&mut self) {
        let (here, least) = (self.members.of_role(Role::Actor).len() as u32, self.actors_least());
        let started = !matches!(self.phase, Phase::Starting | Phase::Done | Phase::Failed(_));
        let too_few = started && here < least;
        if too_few != self.too_few {
            self.too_few = too_few;
            self.events.push(match too_few {
                true => Event::TooFewActors { here, least },
                false => Event::EnoughActors,
            });
        }
    }

    /// Where there are fewer from the start, they are enough.
    fn actors_least(&self) -> u32 {
        self.spec.actors_min.min(self.spec.members.actors)
    }

    /// Fails a run in which nothing has moved for too long, and says what it waited for.
    pub(super) fn check_progress(&mut self, now: Duration) {
        let missing = match self.phase {
            Phase::Starting => self.members.missing(&self.spec.members).len(),
            _ => 0,
        };
        let least = self.progress.marks.as_ref().filter(|marks| marks.phase == self.phase);
        let marks = Marks {
            phase: self.phase.clone(),
            missing: least.map_or(missing, |marks| marks.missing.min(missing)),
            committed: self.committed,
            train_completed: self.train_counts.completed,
            eval_completed: self.eval_counts.completed,
        };
        if self.progress.marks.as_ref() != Some(&marks) {
            self.progress = Progress { marks: Some(marks), since: now, last_return: None };
        }
        let waited = self.idle(now);
        let gather_max = self.spec.gather_max.filter(|_| missing > 0);
        let (limit, setting) = match (&self.phase, gather_max) {
            (Phase::Starting, Some(limit)) => (limit, "coordinator.gather_timeout_ms"),
            (Phase::Starting, None) => (self.spec.start_max, "coordinator.start_timeout_ms"),
            (Phase::Evaluating(_) | Phase::Training, _) => {
                (self.spec.stall_max, "coordinator.stall_timeout_ms")
            }
            (Phase::Done | Phase::Failed(_), _) => return,
        };
        if waited >= limit {
            let (seconds, waits) = (limit.as_secs_f64(), self.waits_for().join("; "));
            let last = self.progress.last_return.as_ref();
            let last = last.map(|last| format!("; dealt again last: {last}")).unwrap_or_default();
            let told = self.members_wait_for(now);
            self.fail(format!(
                "no progress for {seconds} s: waiting for {waits}{last} ({setting}){told}"
            ));
        }
    }

    /// Whether there is still work for a process of this role.
    #[must_use]
    pub fn needs(&self, role: Role) -> bool {
        let steps = self.spec.training.as_ref().map_or(0, |training| training.steps);
        match (&self.phase, role) {
            (Phase::Done | Phase::Failed(_), _) => false,
            (Phase::Evaluating(Stage::After), Role::Learner) => self.published.is_none(),
            (_, Role::Learner) => self.committed < steps || self.published.is_none(),
            (_, Role::Actor | Role::WeakServer) => true,
        }
    }

    /// Since something moved last.
    pub(super) fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(self.progress.since)
    }

    /// What each member waits for in its own words, one per line.
    fn members_wait_for(&self, now: Duration) -> String {
        let mut text = String::new();
        for view in self.inspection(now).members {
            let waits = view
                .waits
                .iter()
                .map(|wait| format!("{} for {:.0} s", wait.what, wait.since.as_secs_f64()));
            let waits: Vec<String> = waits.collect();
            if !waits.is_empty() {
                text.push_str(&format!("\n  {} waits for {}", view.name, waits.join("; ")));
            }
        }
        text
    }

    pub(super) fn waits_for(&self) -> Vec<String> {
        let missing = self.members.missing(&self.spec.members).into_iter();
        let mut waits: Vec<String> = missing.map(|name| format!("{name} to register")).collect();
        if self.too_few {
            waits.push(format!("{} actors (coordinator.actors_min)", self.actors_least()));
        }
        let next = self.committed + 1;
        let commit = || format!("the learner to commit step {next}");
        match (&self.phase, self.spec.training.as_ref()) {
            (Phase::Starting, _) if self.published.is_none() => {
                waits.push("the first weights".to_owned());
            }
            (Phase::Evaluating(_), _) => {
                let open = self.evals.undelivered(GroupId(0)..GroupId(self.next_eval_group));
                waits.extend(self.named("evaluation", &open));
            }
            (Phase::Training, Some(training)) => match training.work {
                TrainingWork::Examples => waits.push(commit()),
                TrainingWork::Rollouts { .. } => {
                    let groups = training.groups_of(next);
                    let mut open =
                        self.train.undelivered(GroupId(groups.start)..GroupId(groups.end));
                    let undealt = groups.start.max(self.next_group)..groups.end;
                    open.extend(undealt.map(|group| (GroupId(group), None)));
                    waits.push(self.named("train", &open).unwrap_or_else(commit));
                }
            },
            _ => {}
        }
        waits
    }

    /// Groups that are not delivered, those in a row with whoever has them; `None` where there are
    /// none.
    fn named(&self, purpose: &str, open: &[(GroupId, Option<MemberId>)]) -> Option<String> {
        let in_a_row: Vec<&[(GroupId, Option<MemberId>)]> =
            open.chunk_by(|(a, of), (b, with)| a.0 + 1 == b.0 && of == with).collect();
        let shown = &in_a_row[..in_a_row.len().min(RANGES_NAMED)];
        let names = shown.iter().map(|groups| {
            let ((first, holder), (last, _)) = (groups[0], groups[groups.len() - 1]);
            let holder = holder.map_or("nobody".to_owned(), |member| self.members.name(member));
            match first == last {
                true => format!("{first} with {holder}"),
                false => format!("{first} to {last} with {holder}"),
            }
        });
        let names = names.collect::<Vec<String>>().join(", ");
        let more = match open.len() - shown.iter().map(|groups| groups.len()).sum::<usize>() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!open.is_empty()).then(|| format!("{purpose} groups {names}{more}"))
    }
}
