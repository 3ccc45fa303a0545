//! What one run does, derived from the settings once: members, training, evaluations, bounds.

use std::ops::Range;
use std::time::Duration;

use settings::{Objective, Settings};
use types::Sampling;

use crate::eval_plan::EvalPlan;
use crate::membership::MemberCounts;
use crate::source::Source;

/// A broken watch may take so many keepalives to come back.
const ABSENCE_KEEPALIVES: u32 = 10;
/// Signs of life may be late on a busy machine; members wait as long for the coordinator's.
const SILENCE_KEEPALIVES: u32 = 30;

/// The fixed part of the coordinator's state.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// Tells this run from all others.
    pub run: u64,
    pub members: MemberCounts,
    /// `None`: nothing is trained.
    pub training: Option<Training>,
    pub eval_before: Option<EvalPlan>,
    /// After every so many steps but the last.
    pub eval_every: Option<(u32, EvalPlan)>,
    pub eval_after: Option<EvalPlan>,
    pub lease_deadline: Duration,
    /// A member without a watch for so long has left.
    pub absence_max: Duration,
    /// A member that watches but gives no sign of life for so long has left.
    pub silence_max: Duration,
    /// With fewer no work is dealt.
    pub actors_min: u32,
    /// Leases are numbered from here on: those of an earlier coordinator have other numbers.
    pub first_lease: u64,
    /// So long after another process came the run must have begun, with the first weights.
    pub start_max: Duration,
    /// Others start the processes, which takes so long at most.
    pub gather_max: Option<Duration>,
    /// A run in which nothing moves for so long fails.
    pub stall_max: Duration,
    /// A group that is dealt more often fails the run.
    pub group_deals_max: u32,
}

#[derive(Clone, Debug)]
pub struct Training {
    pub steps: u32,
    /// Step s consists of groups s × this … (s + 1) × this − 1.
    pub groups_per_step: u64,
    pub work: TrainingWork,
}

#[derive(Clone, Debug)]
pub enum TrainingWork {
    /// Actors write rollouts.
    Rollouts { schedule: String, samples: u32, sampling: Sampling, max_versions: u32 },
    /// The learner asks for worked solutions itself.
    Examples,
}

impl Training {
    /// The ids of the groups that make a step; steps count from 1.
    #[must_use]
    pub fn groups_of(&self, step: u32) -> Range<u64> {
        let end = u64::from(step) * self.groups_per_step;
        end.saturating_sub(self.groups_per_step)..end
    }
}

impl RunSpec {
    /// # Errors
    /// A training schedule that does not exist.
    pub fn launch(settings: &Settings, source: &Source, actors: u32) -> Result<Self, String> {
        let full = |problems| EvalPlan::full(settings, held_out(source, problems));
        let eval = &settings.eval;
        let (enabled, every) = (eval.enabled, eval.every_steps);
        let work = TrainingWork::Rollouts {
            schedule: settings.train_schedule()?.to_string(),
            samples: settings.train.samples_per_problem,
            sampling: settings.train_sampling(),
            max_versions: settings.staleness.max_versions,
        };
        let training = Training {
            steps: settings.train.steps,
            groups_per_step: settings.groups_per_step(),
            work,
        };
        let smaller = || full(eval.every_problems).without_weak_alone().sampled_once();
        Ok(Self {
            members: MemberCounts { actors, weak_servers: 1, learners: 1 },
            training: Some(training),
            eval_before: enabled.then(|| full(eval.problems)),
            eval_every: (enabled && every > 0).then(|| (every, smaller())),
            eval_after: enabled.then(|| full(eval.problems).without_weak_alone()),
            ..Self::idle(settings)
        })
    }

    /// The same where others start the processes.
    #[must_use]
    pub fn served(self, settings: &Settings) -> Self {
        let gather_max = Duration::from_millis(settings.coordinator.gather_timeout_ms.into());
        Self { gather_max: Some(gather_max), ..self }
    }

    /// Supervised fine-tuning: the learner alone.
    #[must_use]
    pub fn sft(settings: &Settings) -> Self {
        debug_assert_eq!(settings.train.objective, Objective::Sft);
        let training = Training {
            steps: settings.train.steps,
            groups_per_step: settings.groups_per_step(),
            work: TrainingWork::Examples,
        };
        Self {
            members: MemberCounts { learners: 1, ..MemberCounts::default() },
            training: Some(training),
            ..Self::idle(settings)
        }
    }

    /// One evaluation, of weights that are given or that a learner publishes.
    #[must_use]
    pub fn evaluation(settings: &Settings, plan: EvalPlan, actors: u32, learners: u32) -> Self {
        Self {
            members: MemberCounts { actors, weak_servers: 1, learners },
            eval_after: Some(plan),
            ..Self::idle(settings)
        }
    }

    fn idle(settings: &Settings) -> Self {
        let limits = &settings.coordinator;
        let millis = |n: u32| Duration::from_millis(u64::from(n));
        Self {
            run: 0,
            members: MemberCounts::default(),
            training: None,
            eval_before: None,
            eval_every: None,
            eval_after: None,
            lease_deadline: millis(limits.lease_deadline_ms),
            absence_max: millis(limits.keepalive_ms) * ABSENCE_KEEPALIVES,
            silence_max: millis(limits.keepalive_ms) * SILENCE_KEEPALIVES,
            actors_min: limits.actors_min,
            first_lease: 0,
            start_max: millis(limits.start_timeout_ms),
            gather_max: None,
            stall_max: millis(limits.stall_timeout_ms),
            group_deals_max: limits.group_deals_max,
        }
    }
}

/// As many problems as asked for and held out.
#[must_use]
pub fn held_out(source: &Source, problems: u32) -> u32 {
    source.held_out_problems().map_or(problems, |most| problems.min(most))
}
