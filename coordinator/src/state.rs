//! The whole run as a pure state machine: phases, groups, evaluations, commits. It takes the time
//! as an argument and does no I/O; `hub` holds it, `service` and `session` feed it.

mod commit;
mod deal;
mod formation;
mod inspect;
mod phases;
mod resume;
mod stall;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use proto::{
    Completion, Departure, Directive, EvalStage, JournalEntry, Pulse, Registration, ReturnReason,
    ReturnedGroup, Role, StepRecord,
};
use types::{Generation, GroupId, MemberId, PolicyVersion, Problem, Purpose, RolloutGroup};

use crate::departures::Departures;
use crate::eval_plan::{EvalFault, EvalResult, EvalRun};
use crate::lease::GroupTable;
use crate::membership::{MemberError, Membership, Watch};
use crate::shard::Place;
use crate::source::Source;
use crate::spec::{RunSpec, Training, TrainingWork};
use crate::state::formation::Ranks;
use crate::state::stall::Progress;

/// Which evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Before,
    During,
    After,
}

impl From<Stage> for EvalStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Before => Self::Before,
            Stage::During => Self::During,
            Stage::After => Self::After,
        }
    }
}

impl Stage {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until every expected member and the first weights are there.
    Starting,
    Evaluating(Stage),
    Training,
    Done,
    /// The run cannot go on; the text says why.
    Failed(String),
}

/// What happened, for whoever reports it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Entered(Phase),
    Committed(StepRecord),
    Evaluated {
        stage: Stage,
        step: u32,
        result: EvalResult,
    },
    /// A shard is dealt from.
    Dealing(Place),
    /// This member is gone.
    Left(String),
    /// There are too few actors to go on; so many of so many that it takes.
    TooFewActors {
        here: u32,
        least: u32,
    },
    /// There are enough again.
    EnoughActors,
    /// The learner's ranks are all there, after this many steps.
    Formed {
        generation: Generation,
        step: u32,
    },
    /// The ranks go on from an earlier step than was committed.
    RolledBack {
        generation: Generation,
        step: u32,
        undone: u32,
    },
}

/// Sums over all committed steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Groups of committed steps, by their ids; examples where those are trained on.
    pub consumed: u64,
    pub trained: u64,
    pub zero_variance: u64,
    pub stale: u64,
    pub duplicates_refused: u64,
    /// Groups reported as trained that were consumed before; 0 unless something is broken.
    pub trained_twice: u64,
    pub strong_tokens: u64,
    pub weak_tokens: u64,
}

/// How groups of one purpose fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    pub leased: u64,
    pub completed: u64,
    pub expired: u64,
    pub failed: u64,
    pub stale: u64,
    pub refused: u64,
    pub replaced: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("step {found} is committed where step {expected} is due")]
    Step { found: u32, expected: u32 },
    #[error("step {step} accounts for {found} groups but has {expected}")]
    Count { step: u32, found: u64, expected: u64 },
    #[error("step {step} was made of groups {found} where {expected} are due")]
    Groups { step: u32, found: String, expected: String },
    #[error("step {step} is not committed: {fault}")]
    Unwritten { step: u32, fault: String },
    #[error("step {step} is of generation {found}, but {expected} is published")]
    Generation { step: u32, found: Generation, expected: Generation },
    #[error("weights {found} are not what comes next, which is {expected}")]
    Version { found: PolicyVersion, expected: PolicyVersion },
    #[error("nothing is being trained now")]
    NotTraining,
    #[error("this run deals no supervised examples")]
    NoExamples,
    #[error("{0} examples are more than one request may ask for")]
    TooMany(u32),
    #[error(transparent)]
    Eval(#[from] EvalFault),
}

const LEASE_RAN_OUT: &str = "its lease ran out (coordinator.lease_deadline_ms)";

/// Examples of one request, at most.
const EXAMPLES_MAX: u32 = 1 << 16;

/// The coordinator's state.
#[derive(Clone, Debug)]
pub struct RunState {
    spec: RunSpec,
    source: Source,
    members: Membership,
    departures: Departures,
    phase: Phase,
    stopping: bool,
    published: Option<PolicyVersion>,
    /// The last one that formed.
    generation: Generation,
    /// The last one that is in the journal.
    recorded: Generation,
    /// None while a rank of the learner is missing.
    ranks: Option<Ranks>,
    committed: u32,
    /// Before anything was undone.
    committed_most: u32,
    /// The last committed report: its repetition is no news.
    last_record: Option<StepRecord>,
    /// The furthest that the problems were dealt.
    dealing: Option<Place>,
    progress: Progress,
    /// No work is dealt until there are more actors.
    too_few: bool,
    train: GroupTable,
    /// Open groups whose problem was replaced (`train.refill`).
    replaced: BTreeSet<GroupId>,
    next_group: u64,
    evals: GroupTable,
    next_eval_group: u64,
    eval: Option<EvalRun>,
    next_lease: u64,
    /// The last step after which an interleaved evaluation was done.
    evaluated: Option<u32>,
    before: Option<EvalResult>,
    after: Option<EvalResult>,
    /// The last evaluation, and the step that it was made after.
    measured: Option<(u32, EvalResult)>,
    totals: Totals,
    /// The totals after each committed step.
    ledger: Vec<Totals>,
    train_counts: GroupCounts,
    eval_counts: GroupCounts,
    events: Vec<Event>,
    /// What is to be on disk before anyone is answered.
    entries: Vec<JournalEntry>,
}

impl RunState {
    #[must_use]
    pub fn new(spec: RunSpec, source: Source) -> Self {
        let next_lease = spec.first_lease;
        Self {
            spec,
            source,
            members: Membership::default(),
            departures: Departures::default(),
            phase: Phase::Starting,
            stopping: false,
            published: None,
            generation: Generation(0),
            recorded: Generation(0),
            ranks: None,
            committed: 0,
            committed_most: 0,
            last_record: None,
            dealing: None,
            progress: Progress::default(),
            too_few: false,
            train: GroupTable::default(),
            replaced: BTreeSet::new(),
            next_group: 0,
            evals: GroupTable::default(),
            next_eval_group: 0,
            eval: None,
            next_lease,
            evaluated: None,
            before: None,
            after: None,
            measured: None,
            totals: Totals::default(),
            ledger: Vec::new(),
            train_counts: GroupCounts::default(),
            eval_counts: GroupCounts::default(),
            events: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Takes a member in; returns its index among those of its role.
    ///
    /// # Errors
    /// Another of the same role and index is present.
    pub fn register(&mut self, registration: Registration) -> Result<u32, StateError> {
        let (role, heard_of) = (registration.role, registration.generation);
        let (index, replaced) = self.members.register(registration)?;
        if let Some(old) = replaced {
            self.departures.count(role, None);
            self.release(old);
            self.unform(old);
        }
        self.departures.came(role, index);
        if heard_of > self.generation {
            // Of another run's ranks. What formed below that number is not theirs to follow.
            (self.generation, self.recorded, self.ranks) = (heard_of, heard_of, None);
        }
        self.form();
        self.count_actors();
        self.start_if_ready();
        Ok(index)
    }

    /// The process of this role and index has ended, as whoever calls knows.
    pub fn ended(&mut self, role: Role, index: u32, now: Duration) {
        if let Some(member) = self.members.find(role, index) {
            self.remove(member, None, now);
        }
    }

    /// A member says that it ends.
    ///
    /// # Errors
    /// An unknown member.
    pub fn leave(
        &mut self,
        member: MemberId,
        how: Departure,
        now: Duration,
    ) -> Result<String, StateError> {
        self.remove(member, Some(how), now).ok_or(MemberError::Unknown(member).into())
    }

    /// A member's watch opened.
    ///
    /// # Errors
    /// An unknown member.
    pub fn watched(&mut self, member: MemberId) -> Result<Watch, StateError> {
        self.members.watched(member).ok_or(MemberError::Unknown(member).into())
    }

    /// A member gave a sign of life.
    ///
    /// # Errors
    /// An unknown member: it is to register again.
    pub fn heard(&mut self, pulse: Pulse, now: Duration) -> Result<(), StateError> {
        let member = pulse.member;
        let known = self.members.heard(pulse, now);
        known.then_some(()).ok_or(MemberError::Unknown(member).into())
    }

    /// A member's watch ended; if it does not watch again soon, it has left.
    pub fn unwatched(&mut self, watch: Watch, now: Duration) {
        self.members.unwatched(watch, now);
    }

    /// The groups of these leases were delivered. Those that earlier ranks took are dealt again.
    ///
    /// # Errors
    /// Anyone but a registered actor.
    pub fn complete(
        &mut self,
        member: MemberId,
        completions: &[Completion],
    ) -> Result<(), StateError> {
        self.members.expect(member, Role::Actor)?;
        for Completion { lease, generation } in completions {
            // Evaluation groups complete by their report.
            if *generation != self.generation {
                self.train.give_up(*lease);
            } else if self.train.complete(*lease).is_some() {
                self.train_counts.completed += 1;
            }
        }
        Ok(())
    }

    /// A group was given up: it is dealt again, unless that is so already.
    ///
    /// # Errors
    /// An unknown member.
    pub fn return_group(&mut self, returned: &ReturnedGroup) -> Result<(), StateError> {
        let by_learner = self.members.role(returned.member)? == Role::Learner;
        let (table, counts) = match returned.purpose {
            Purpose::Train => (&mut self.train, &mut self.train_counts),
            Purpose::Eval => (&mut self.evals, &mut self.eval_counts),
        };
        let reopened = match by_learner {
            true => table.reopen(returned.group, returned.epoch),
            false => table.give_back(returned.group, returned.epoch),
        };
        if reopened.is_some() {
            match returned.reason {
                ReturnReason::Failed => counts.failed += 1,
                ReturnReason::Impossible => {
                    counts.failed += 1;
                    let (purpose, group) = (returned.purpose.name(), returned.group);
                    let why = &returned.detail;
                    self.fail(format!("{purpose} group {group} cannot be written: {why}"));
                    return Ok(());
                }
                ReturnReason::Stale => counts.stale += 1,
                ReturnReason::Refused => counts.refused += 1,
                ReturnReason::Replaced => {
                    counts.replaced += 1;
                    self.replaced.insert(returned.group);
                    // Nothing went wrong.
                    return Ok(());
                }
            }
            let why = format!("{}: {}", returned.reason.name(), returned.detail);
            self.limit_deals(returned.purpose, returned.group, &why);
        }
        Ok(())
    }

    /// Evaluation rollouts. Good groups count even where others are refused; late copies and
    /// those of an earlier evaluation are ignored.
    ///
    /// # Errors
    /// The first refused group; it is dealt again.
    pub fn report_eval(
        &mut self,
        member: MemberId,
        groups: &[RolloutGroup],
    ) -> Result<(), StateError> {
        self.members.expect(member, Role::Actor)?;
        let mut first_fault = Ok(());
        for group in groups {
            if let Err(fault) = self.take_eval(group) {
                self.eval_counts.refused += 1;
                if self.evals.give_back(group.group, group.epoch).is_some() {
                    let why = format!("refused: {fault}");
                    self.limit_deals(Purpose::Eval, group.group, &why);
                }
                first_fault = first_fault.and(Err(fault.into()));
            }
        }
        if self.eval.as_ref().is_some_and(EvalRun::is_complete) {
            self.finish_eval();
        }
        first_fault
    }

    /// Problems with worked solutions; the same request gets the same ones.
    ///
    /// # Errors
    /// In a run without supervised training, or an absurd number of them.
    pub fn examples(
        &mut self,
        member: MemberId,
        step: u64,
        count: u32,
    ) -> Result<Vec<Problem>, StateError> {
        self.members.expect(member, Role::Learner)?;
        match &self.spec.training {
            Some(Training { work: TrainingWork::Examples, .. }) => {}
            _ => return Err(StateError::NoExamples),
        }
        if count > EXAMPLES_MAX {
            return Err(StateError::TooMany(count));
        }
        let first = step.saturating_mul(u64::from(count));
        for position in first..first.saturating_add(u64::from(count)) {
            self.note_dealt(position);
        }
        Ok((first..first.saturating_add(u64::from(count))).map(|i| self.source.train(i)).collect())
    }

    /// Members that are gone leave; leases that have run out are dealt again; a run in which
    /// nothing moves fails.
    pub fn tick(&mut self, now: Duration) {
        let RunSpec { absence_max, silence_max, .. } = self.spec;
        for member in self.members.absent(now, absence_max, silence_max) {
            self.lose(member, now);
        }
        self.check_progress(now);
        for (group, _) in self.train.expire(now) {
            self.train_counts.expired += 1;
            self.limit_deals(Purpose::Train, group, LEASE_RAN_OUT);
        }
        for (group, _) in self.evals.expire(now) {
            self.eval_counts.expired += 1;
            self.limit_deals(Purpose::Eval, group, LEASE_RAN_OUT);
        }
    }

    /// From now on no work is dealt and every member is told to exit.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The run cannot go on.
    pub fn fail(&mut self, why: impl Into<String>) {
        if !matches!(self.phase, Phase::Done | Phase::Failed(_)) {
            self.enter(Phase::Failed(why.into()));
        }
    }

    #[must_use]
    pub fn directive(&self) -> Directive {
        let addresses = |role| {
            let mut members = self.members.of_role(role);
            // Actors are spread over them by place, whoever came first.
            members.sort_by_key(|member| member.index);
            members.into_iter().map(|member| member.address.clone())
        };
        Directive {
            version: self.published,
            formation: self.ranks.as_ref().map(|ranks| ranks.formation.clone()),
            weak_servers: addresses(Role::WeakServer).collect(),
            stop: self.stopping,
        }
    }

    /// What must not be forgotten of it, since the last call.
    pub fn take_entries(&mut self) -> Vec<JournalEntry> {
        std::mem::take(&mut self.entries)
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}
