//! What an evaluation consists of and what its rollouts say. It deals nothing itself: groups are
//! handed out by `state`, all rollouts of one problem in one arm together.

use settings::{DataSource, EvalSplit, Settings, SolutionStyle};
use tandem::{GraderKind, Schedule};
use types::{
    Author, Finish, GroupId, PolicyVersion, Problem, Rollout, RolloutGroup, Sampling, TokenId,
};

use crate::source::Lead;

mod marks;
mod probe;
mod result;

pub use marks::PassAt;
use marks::{Marks, conclude};
pub use probe::{Contrast, Probe, Verdict};
pub use result::{BySchedule, EvalResult};

/// What an arm measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArmKind {
    /// The strong model alone, sampled; jargon is counted here.
    Solo,
    SoloGreedy,
    /// The same with the jargon tokens banned: a gate of supervised fine-tuning.
    SoloPlain,
    /// Under a schedule, by its written form in the settings.
    Tandem(String),
    WeakAlone,
    /// The weak model alone after half a gold solution in a style: a probe.
    WeakAfter(SolutionStyle),
    /// Under training's schedule after one line of a gold solution, which leads the strong model
    /// into its style: a probe.
    TandemLed(SolutionStyle),
}

impl ArmKind {
    /// In files.
    fn name(&self) -> &str {
        match self {
            Self::Solo => "solo",
            Self::SoloGreedy => "solo_greedy",
            Self::SoloPlain => "solo_plain",
            Self::Tandem(schedule) => schedule,
            Self::WeakAlone => "weak_solo",
            Self::WeakAfter(SolutionStyle::Annotated) => "weak_after_annotated",
            Self::WeakAfter(SolutionStyle::Plain) => "weak_after_plain",
            Self::TandemLed(SolutionStyle::Annotated) => "tandem_led_annotated",
            Self::TandemLed(SolutionStyle::Plain) => "tandem_led_plain",
        }
    }
}

/// Rollouts of every problem under one schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    pub kind: ArmKind,
    pub schedule: Schedule,
    pub sampling: Sampling,
    /// Of each problem.
    pub samples: u32,
    /// What both models find written already.
    pub lead: Option<Lead>,
}

/// Arms over the same problems.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalPlan {
    pub problems: u32,
    pub arms: Vec<Arm>,
    pub split: EvalSplit,
    /// That read every text, beside the one that rewards come from.
    pub graders: Vec<GraderKind>,
    /// The k of pass@k.
    pub pass_at: Vec<u32>,
    /// Of the intervals' resamples.
    pub seed: u64,
}

impl EvalPlan {
    /// Everything that the table before and after shows. Schedules must be valid ones.
    #[must_use]
    pub fn full(settings: &Settings, problems: u32) -> Self {
        let samples = settings.eval.samples;
        let sampled = |kind, schedule| {
            let sampling = sampling(settings, 1.0);
            Arm { kind, schedule, sampling, samples, lead: None }
        };
        let mut arms = vec![sampled(ArmKind::Solo, Schedule::STRONG_ALONE)];
        for text in &settings.eval.schedules {
            let kind = ArmKind::Tandem(text.clone());
            if let (Ok(schedule), false) = (text.parse(), arms.iter().any(|a| a.kind == kind)) {
                arms.push(sampled(kind, schedule));
            }
        }
        let greedy = sampling(settings, 0.0);
        let (kind, schedule) = (ArmKind::SoloGreedy, Schedule::STRONG_ALONE);
        arms.push(Arm { kind, schedule, sampling: greedy, samples: 1, lead: None });
        arms.push(sampled(ArmKind::WeakAlone, Schedule::WEAK_ALONE));
        Self::of(settings, problems, arms)
    }

    /// What the gates of supervised fine-tuning need.
    #[must_use]
    pub fn gates(settings: &Settings, problems: u32, jargon_tokens: Vec<TokenId>) -> Self {
        let schedule = Schedule::STRONG_ALONE;
        let solo = sampling(settings, 1.0);
        let plain = Sampling { banned: jargon_tokens, ..solo.clone() };
        let arm = |kind, sampling| Arm { kind, schedule, sampling, samples: 1, lead: None };
        let mut arms = vec![arm(ArmKind::Solo, solo)];
        if !plain.banned.is_empty() {
            arms.push(arm(ArmKind::SoloPlain, plain));
        }
        Self::of(settings, problems, arms)
    }

    fn of(settings: &Settings, problems: u32, arms: Vec<Arm>) -> Self {
        Self {
            problems,
            arms,
            split: settings.eval.split,
            graders: graders(settings),
            pass_at: settings.eval.pass_at.clone(),
            seed: settings.eval.seed,
        }
    }

    /// The frozen model and the keys stay the same, so one measurement serves the whole run.
    #[must_use]
    pub fn without_weak_alone(mut self) -> Self {
        self.arms.retain(|arm| arm.kind != ArmKind::WeakAlone);
        self
    }

    /// One rollout of every problem in each arm.
    #[must_use]
    pub fn sampled_once(mut self) -> Self {
        self.arms.iter_mut().for_each(|arm| arm.samples = 1);
        self
    }

    #[must_use]
    pub fn groups(&self) -> u64 {
        self.arms.len() as u64 * u64::from(self.problems)
    }

    #[must_use]
    pub fn rollouts(&self) -> u64 {
        let samples: u64 = self.arms.iter().map(|arm| u64::from(arm.samples)).sum();
        samples * u64::from(self.problems)
    }
}

/// Ours, the two that published accuracies are read with, and the reward's.
fn graders(settings: &Settings) -> Vec<GraderKind> {
    let mut graders = match settings.data.source {
        DataSource::Miniature => Vec::new(),
        DataSource::Gsm8k => {
            vec![GraderKind::Gsm8k, GraderKind::LmEvalStrict, GraderKind::LmEvalFlexible]
        }
    };
    if !graders.contains(&settings.grader()) {
        graders.push(settings.grader());
    }
    graders
}

fn sampling(settings: &Settings, temperature: f32) -> Sampling {
    let max_tokens = settings.sampling.max_tokens;
    Sampling { temperature, top_p: 1.0, max_tokens, banned: Vec::new() }
}

/// Outcomes of graded rollouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub correct: u64,
    pub wrong: u64,
    pub truncated: u64,
}

impl Tally {
    fn add(&mut self, rollout: &Rollout) {
        let parts = rollout.parts();
        match (parts.verdict.correct, parts.finish) {
            (true, _) => self.correct += 1,
            (false, Finish::End) => self.wrong += 1,
            (false, Finish::Truncated) => self.truncated += 1,
        }
    }

    /// `None` where nothing was measured.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.correct, self.correct + self.wrong + self.truncated)
    }
}

fn ratio(count: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| count as f64 / of as f64)
}

#[derive(Clone, Copy, Debug, Default)]
struct ArmTally {
    all: Tally,
    with_handoff: Tally,
    jargon: u64,
    jargon_of: u64,
}

impl ArmTally {
    fn add(&mut self, rollout: &Rollout) {
        self.all.add(rollout);
        if rollout.has_handoff() {
            self.with_handoff.add(rollout);
        }
        let jargon = rollout.parts().verdict.jargon;
        self.jargon += u64::from(jargon.count);
        self.jargon_of += u64::from(jargon.of);
    }
}

/// Why a reported evaluation group is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalFault {
    #[error("evaluation group {group} has {found} samples instead of {expected}")]
    Samples { group: GroupId, found: usize, expected: u32 },
    #[error("evaluation group {group} was written under '{found}' instead of '{expected}'")]
    Schedule { group: GroupId, found: String, expected: String },
    #[error("evaluation group {group} answers problem {found} instead of {expected}")]
    Problem { group: GroupId, found: u64, expected: u64 },
    #[error("evaluation group {0} was sampled in another way than asked for")]
    Sampling(GroupId),
    #[error("evaluation group {group} has a token of {found} while {expected} is evaluated")]
    Version { group: GroupId, found: PolicyVersion, expected: PolicyVersion },
    #[error("evaluation group {0} has tokens of an author that its schedule excludes")]
    Authors(GroupId),
}

/// An evaluation under way: group `base + arm × problems + ordinal` has the arm's samples of one
/// problem.
#[derive(Clone, Debug)]
pub struct EvalRun {
    plan: EvalPlan,
    base: u64,
    tallies: Vec<ArmTally>,
    marks: Vec<Marks>,
    done: u64,
}

impl EvalRun {
    #[must_use]
    pub fn new(plan: EvalPlan, base: u64) -> Self {
        let tallies = vec![ArmTally::default(); plan.arms.len()];
        let marks = |arm: &Arm| Marks::new(&plan.graders, arm.samples, plan.problems);
        let marks = plan.arms.iter().map(marks).collect();
        Self { plan, base, tallies, marks, done: 0 }
    }

    /// The groups to deal, in order.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (self.base..self.base + self.plan.groups()).map(GroupId)
    }

    /// Arm and problem of one of this evaluation's groups.
    #[must_use]
    pub fn locate(&self, group: GroupId) -> Option<(&Arm, u64)> {
        let (arm, ordinal) = self.position(group)?;
        Some((&self.plan.arms[arm], ordinal))
    }

    #[must_use]
    pub fn group_count(&self) -> u64 {
        self.plan.groups()
    }

    /// Rollouts so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    #[must_use]
    pub fn rollouts(&self) -> u64 {
        self.plan.rollouts()
    }

    /// Takes the first complete copy of a group; the caller sees to it that no second one comes.
    ///
    /// # Errors
    /// Whatever was not written as asked for.
    pub fn record(
        &mut self,
        group: &RolloutGroup,
        problem: &Problem,
        version: PolicyVersion,
    ) -> Result<(), EvalFault> {
        let id = group.group;
        let Some((arm, ordinal)) = self.position(id) else { return Ok(()) };
        let (found, expected) = (group.samples.len(), self.plan.arms[arm].samples);
        if found != expected as usize {
            return Err(EvalFault::Samples { group: id, found, expected });
        }
        for rollout in &group.samples {
            check(&self.plan.arms[arm], group, rollout, version)?;
        }
        if group.problem.id != problem.id {
            let (found, expected) = (group.problem.id, problem.id);
            return Err(EvalFault::Problem { group: id, found, expected });
        }
        for rollout in &group.samples {
            self.tallies[arm].add(rollout);
            self.marks[arm].add(ordinal as usize, problem, rollout);
        }
        self.done += u64::from(expected);
        Ok(())
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done == self.plan.rollouts()
    }

    #[must_use]
    pub fn result(&self) -> EvalResult {
        let mut result = EvalResult { problems: self.plan.problems, ..EvalResult::default() };
        result.test_set = self.plan.split == EvalSplit::Test;
        let arms = self.plan.arms.iter().zip(&self.marks);
        let measures = arms.flat_map(|(arm, m)| m.pass_at(arm.kind.name(), &self.plan.pass_at));
        result.pass_at = conclude(measures.collect(), self.plan.seed);
        result.probe = self.probe();
        for (arm, tally) in self.plan.arms.iter().zip(&self.tallies) {
            let accuracy = tally.all.accuracy();
            match &arm.kind {
                ArmKind::Solo => {
                    result.solo_accuracy = accuracy;
                    result.jargon_rate = ratio(tally.jargon, tally.jargon_of);
                }
                ArmKind::SoloGreedy => result.solo_accuracy_greedy = accuracy,
                ArmKind::SoloPlain => result.plain_solo_accuracy = accuracy,
                ArmKind::WeakAlone => result.weak_solo_accuracy = accuracy,
                // Among the pass@k, and in the probe's contrasts.
                ArmKind::WeakAfter(_) | ArmKind::TandemLed(_) => {}
                ArmKind::Tandem(text) => {
                    result.tandem_accuracy.push(text, accuracy);
                    result.handoff_success_rate.push(text, tally.with_handoff.accuracy());
                }
            }
        }
        result
    }

    fn position(&self, group: GroupId) -> Option<(usize, u64)> {
        let offset = group.0.checked_sub(self.base)?;
        let problems = u64::from(self.plan.problems);
        (offset < self.plan.groups()).then(|| ((offset / problems) as usize, offset % problems))
    }
}

fn check(
    arm: &Arm,
    group: &RolloutGroup,
    rollout: &Rollout,
    version: PolicyVersion,
) -> Result<(), EvalFault> {
    let id = group.group;
    if group.schedule.parse() != Ok(arm.schedule) {
        let (found, expected) = (group.schedule.clone(), arm.schedule.to_string());
        return Err(EvalFault::Schedule { group: id, found, expected });
    }
    let parts = rollout.parts();
    if parts.sampling != arm.sampling {
        return Err(EvalFault::Sampling(id));
    }
    let excluded = match (arm.schedule.is_strong_alone(), arm.schedule.is_weak_alone()) {
        (true, _) => Some(Author::Weak),
        (_, true) => Some(Author::Strong),
        _ => None,
    };
    if excluded.is_some_and(|author| rollout.count(author) > 0) {
        return Err(EvalFault::Authors(id));
    }
    let mut strong = parts.authors.iter().zip(&parts.versions);
    match strong.find(|(author, found)| **author == Author::Strong && **found != version) {
        Some((_, found)) => Err(EvalFault::Version { group: id, found: *found, expected: version }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
