//! Step after step on the thread that owns the tensors: wait for the batch, train, have a
//! checkpoint written if one is due, publish, commit. A stop abandons the step in hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use model::Texts;
use proto::StepRecord;
use runtime::{Shutdown, within};
use settings::Settings;
use telemetry::{Health, Readiness};
use tokio::runtime::Handle;
use tracing::{info, warn};
use types::{MemberId, PolicyVersion, Rollout, RolloutGroup};

use crate::assembler::{Counts, oldest_step};
use crate::census::Census;
use crate::checkpoint::{Checkpoints, State};
pub use crate::examples::{ExampleBatch, ExampleFeed};
use crate::inbox::Inbox;
use crate::metrics;
use crate::publisher::Outlet;
use crate::rank_watch::RankWatch;
pub use crate::report::RolloutFigures;
use crate::report::{Phases, record, values};
use crate::rewards::{RewardTable, Tally, estimator, group_weights};
pub use crate::rollout_log::RolloutLog;
use crate::step::{StepReport, Trainer};

/// A failed task stops the process well within this time.
const FAILURE_LIMIT: Duration = Duration::from_secs(5);

/// What steps are made of.
pub enum Source {
    /// Rollouts from actors.
    Groups(Inbox),
    /// Worked examples, in the order of steps.
    Examples(ExampleFeed),
}

enum Batch {
    Groups(Vec<RolloutGroup>),
    Examples(ExampleBatch),
}

/// What the learner writes into the run directory.
pub struct RunFiles {
    pub checkpoints: Checkpoints,
    pub rollouts: RolloutLog,
    /// What stands beside the weights in a checkpoint.
    pub texts: Arc<Texts>,
}

/// Everything the training thread owns besides the model.
pub struct TrainLoop {
    pub source: Source,
    pub outlet: Box<dyn Outlet>,
    pub settings: Arc<Settings>,
    pub files: RunFiles,
    /// The last committed version; before the first step the start's.
    pub version: PolicyVersion,
    /// The coordinator's name of the run.
    pub run: u64,
    pub ranks: RankWatch,
    pub runtime: Handle,
    pub shutdown: Shutdown,
    pub readiness: Readiness,
    pub health: Health,
}

/// How the steps of a generation ended without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are taken.
    Done,
    Stopped,
    /// The ranks are the present ones no more.
    Superseded,
}

/// A step that is computed and not yet committed.
struct Computed {
    report: StepReport,
    figures: Option<RolloutFigures>,
    /// Groups, or examples.
    trained: u32,
    batch: Batch,
    census: Census,
    phases: Phases,
}

impl TrainLoop {
    /// Takes the steps that are left, from `self.version` on, which is the trainer's.
    ///
    /// # Errors
    /// `Lost` ranks, numbers that are not finite, files that cannot be written, a coordinator that
    /// is lost.
    pub fn run(&mut self, trainer: &mut Trainer) -> anyhow::Result<Ended> {
        if !self.publish_start(trainer)? {
            return Ok(Ended::Stopped);
        }
        while self.version.step < self.settings.train.steps {
            let _step = trace::doing("step").entered();
            let started = Instant::now();
            let batch = match trace::doing("wait").in_scope(|| self.wait())? {
                Some(batch) => batch,
                None if self.shutdown.requested() => return self.leave(trainer),
                None => return Ok(Ended::Superseded),
            };
            // A version that all ranks have a part in may be out before this one is through.
            let next = PolicyVersion { step: self.version.step + 1, ..self.version };
            if let Source::Groups(inbox) = &self.source {
                inbox.announce(next);
            }
            trainer.collective().barrier()?;
            let wait = started.elapsed();
            let compute = || self.compute(trainer, batch, wait);
            let Some(computed) = trace::doing("compute").in_scope(compute)? else {
                return self.leave(trainer);
            };
            if !trace::doing("conclude").in_scope(|| self.conclude(trainer, computed))? {
                return Ok(Ended::Stopped);
            }
        }
        // Of a run without steps nothing was due.
        self.keep_last(trainer)?;
        info!(version = %self.version, "training ended");
        self.health.rest();
        Ok(Ended::Done)
    }

    /// A stop leaves a checkpoint of the last committed step.
    pub(crate) fn leave(&mut self, trainer: &mut Trainer) -> anyhow::Result<Ended> {
        self.keep_last(trainer)?;
        Ok(Ended::Stopped)
    }

    /// Ranks that have parts of the optimiser only may not be at one place now, so that what they
    /// have is not put together.
    fn keep_last(&mut self, trainer: &mut Trainer) -> anyhow::Result<()> {
        self.files.checkpoints.settle()?;
        let step = self.version.step;
        let leads = trainer.collective().rank() == 0;
        if leads && trainer.has_all() && !self.files.checkpoints.store().has(step) {
            let weights = Arc::new(trainer.weights()?);
            self.begin_checkpoint(trainer, self.version, &weights)?;
            self.files.checkpoints.settle()?;
        }
        Ok(())
    }

    /// Before any work is leased. `false` where a stop came between.
    fn publish_start(&mut self, trainer: &mut Trainer) -> anyhow::Result<bool> {
        if trainer.collective().rank() == 0 {
            let weights = trainer.weights()?;
            let published = self.publish(self.version, &weights);
            if !self.unless_stopping(published)? {
                return Ok(false);
            }
            info!(version = %self.version, bytes = weights.len(), "published the start");
        }
        self.readiness.set("published");
        Ok(true)
    }

    fn publish(&mut self, version: PolicyVersion, weights: &[u8]) -> anyhow::Result<()> {
        let manifest = model::manifest(version, weights)?;
        self.outlet.publish(&manifest, weights)?;
        metrics::POLICY_STEP.set(f64::from(version.step), &[]);
        metrics::POLICY_GENERATION.set(f64::from(version.generation.0), &[]);
        Ok(())
    }

    /// The next step's batch; `None` on a stop, or when the ranks are the present ones no more.
    fn wait(&mut self) -> anyhow::Result<Option<Batch>> {
        let (stop, failure) = (self.shutdown.wait(), self.shutdown.wait());
        let (runtime, source, health) = (&self.runtime, &mut self.source, &self.health);
        let (ranks, generation) = (&mut self.ranks, self.version.generation);
        runtime.block_on(async {
            let next = async {
                match source {
                    Source::Groups(inbox) => {
                        Ok(Some(Batch::Groups(inbox.next_batch(health).await)))
                    }
                    Source::Examples(feed) => match feed.next(generation, health).await {
                        Some(batch) => Ok(Some(Batch::Examples(batch))),
                        // Whoever fetched them has failed; its own error is the one to report.
                        None => within("the stop after a failure", FAILURE_LIMIT, failure)
                            .await
                            .map(|()| None)
                            .context("the examples ended before the last step"),
                    },
                }
            };
            tokio::select! {
                biased;
                () = stop => Ok(None),
                () = ranks.until_superseded() => Ok(None),
                batch = next => batch,
            }
        })
    }

    fn compute(
        &mut self,
        trainer: &mut Trainer,
        batch: Batch,
        wait: Duration,
    ) -> anyhow::Result<Option<Computed>> {
        let step = trainer.steps_taken();
        let (shutdown, health) = (self.shutdown.clone(), self.health.clone());
        // Asked before every micro-batch, so that a long step is seen to go on.
        let abandoned = move || {
            health.beat();
            shutdown.requested()
        };
        let mut census = Census::default();
        let trained = match &batch {
            Batch::Groups(groups) => {
                census = self.census(trainer, groups)?;
                let figures = train_on_groups(trainer, groups, &self.settings, &abandoned);
                figures.map(|done| done.map(|(report, figures)| (report, Some(figures))))
            }
            Batch::Examples(ExampleBatch { step: of, examples, .. }) => {
                ensure!(*of == step, "examples of step {of} came for step {step}");
                let report = trainer.sft_step(examples, &abandoned);
                report.map(|done| done.map(|report| (report, None)))
            }
        };
        let trained = trained.with_context(|| format!("step {step} failed"))?;
        let Some((report, figures)) = trained else {
            info!(step, "abandoned the step in hand");
            return Ok(None);
        };
        let trained = match (&batch, &figures) {
            (Batch::Examples(batch), _) => batch.of_all_ranks,
            (_, Some(figures)) => figures.tally.groups_trained as u32,
            (_, None) => 0,
        };
        let phases = Phases { wait, ..Phases::default() };
        Ok(Some(Computed { report, figures, trained, batch, census, phases }))
    }

    fn census(&self, trainer: &mut Trainer, groups: &[RolloutGroup]) -> anyhow::Result<Census> {
        let counts = match &self.source {
            Source::Groups(inbox) => inbox.take_counts(),
            Source::Examples(_) => Counts::default(),
        };
        let per_step = self.settings.groups_per_step();
        let first = u64::from(trainer.steps_taken()) * per_step;
        Census::take(groups, (first, per_step), counts, trainer.collective())
    }

    /// Makes a computed step known, which is rank 0's part. `false` where a stop kept it from being
    /// committed.
    fn conclude(&mut self, trainer: &mut Trainer, mut computed: Computed) -> anyhow::Result<bool> {
        let version = PolicyVersion { step: trainer.steps_taken(), ..self.version };
        let leads = trainer.collective().rank() == 0;
        if leads {
            let (due, actors) = (self.is_due(version.step), self.has_actors());
            let weights = (due || actors).then(|| trainer.weights()).transpose()?.map(Arc::new);
            let started = Instant::now();
            if let (true, Some(weights)) = (due, &weights) {
                self.begin_checkpoint(trainer, version, weights)?;
            }
            computed.phases.checkpoint = started.elapsed();
            if let Batch::Groups(groups) = &computed.batch {
                self.files.rollouts.write(version.step, groups)?;
            }
            let started = Instant::now();
            let published = match &weights {
                Some(weights) if actors => self.publish(version, weights),
                _ => Ok(()),
            };
            computed.phases.publish = started.elapsed();
            let checkpoint = self.checkpoint_to_name(version.step, &mut computed.phases)?;
            let committed = published.and_then(|()| self.commit(&computed, version, checkpoint));
            if let Err(error) = committed {
                let kept = self.keep_uncommitted(trainer, version, weights);
                kept.with_context(|| format!("after {error:#}"))?;
                return self.unless_stopping(Err(error));
            }
            self.files.checkpoints.committed(version.step)?;
        } else if self.is_due(version.step) && !trainer.has_all() {
            // Rank 0 writes it and needs this rank's part.
            trainer.optimizer_state()?;
        }
        self.version = version;
        self.health.beat();
        metrics::STEPS.increment(1, &[]);
        record(&computed.report, computed.figures.as_ref(), &computed.phases);
        if let Batch::Groups(groups) = &computed.batch {
            record_staleness(groups, version.step - 1);
        }
        Ok(true)
    }

    fn commit(
        &mut self,
        computed: &Computed,
        version: PolicyVersion,
        checkpoint: Option<String>,
    ) -> anyhow::Result<()> {
        let record = self.record(computed, version, checkpoint);
        let started = Instant::now();
        self.outlet.commit(&record)?;
        let seconds = started.elapsed().as_secs_f64();
        metrics::STEP_SECONDS.record(seconds, &[("phase", "commit")]);
        Ok(())
    }

    fn record(
        &self,
        computed: &Computed,
        version: PolicyVersion,
        checkpoint: Option<String>,
    ) -> StepRecord {
        let Census { groups, counts } = computed.census.clone();
        let tally = computed.figures.map(|figures| figures.tally);
        let strong_tokens = tally.map_or(computed.report.tokens, |t| t.strong_tokens as u64);
        let mut values = values(&computed.report, computed.figures.as_ref(), &computed.phases);
        if self.settings.train.refill {
            values.insert("replaced_groups".to_owned(), f64::from(counts.replaced));
        }
        StepRecord {
            // The outlet knows who it is.
            member: MemberId::default(),
            step: version.step,
            version,
            groups,
            groups_trained: computed.trained,
            groups_zero_variance: tally.map_or(0, |t| t.groups_zero_variance as u32),
            groups_stale: counts.stale,
            duplicates_refused: counts.duplicates,
            strong_tokens,
            weak_tokens: tally.map_or(0, |t| t.weak_tokens as u64),
            values,
            checkpoint,
        }
    }

    /// The weights are those of a step that nobody may know of, the ones before it are gone. Where
    /// the coordinator has it after all, nothing is lost; otherwise it is passed over.
    fn keep_uncommitted(
        &mut self,
        trainer: &mut Trainer,
        version: PolicyVersion,
        weights: Option<Arc<Vec<u8>>>,
    ) -> anyhow::Result<()> {
        self.files.checkpoints.settle()?;
        let store = self.files.checkpoints.store();
        let kept = [self.version.step, version.step].map(|of| store.has(of));
        if trainer.has_all() && kept == [false, false] {
            let weights = weights.map_or_else(|| trainer.weights().map(Arc::new), Ok)?;
            self.begin_checkpoint(trainer, version, &weights)?;
            self.files.checkpoints.settle()?;
        }
        Ok(())
    }

    /// Whether anybody reads what is published after the start.
    fn has_actors(&self) -> bool {
        matches!(self.source, Source::Groups(_))
    }

    fn is_due(&self, step: u32) -> bool {
        let every = self.settings.checkpoint.every_steps;
        step >= self.settings.train.steps || (every > 0 && step.is_multiple_of(every))
    }

    /// What the commit of a step says of checkpoints: the newest that has become whole since the
    /// one before. The last step and one that is evaluated wait for their own.
    fn checkpoint_to_name(
        &mut self,
        step: u32,
        phases: &mut Phases,
    ) -> anyhow::Result<Option<String>> {
        let started = Instant::now();
        let last = step >= self.settings.train.steps;
        if last || self.settings.evaluates_after(step) {
            self.files.checkpoints.settle()?;
        }
        if last {
            // Once it is committed, nothing keeps the process from being ended.
            self.files.checkpoints.settle_stored();
        }
        phases.checkpoint += started.elapsed();
        self.files.checkpoints.news()
    }

    /// The state of the trainer as it is now; it is written while training goes on.
    fn begin_checkpoint(
        &mut self,
        trainer: &mut Trainer,
        version: PolicyVersion,
        weights: &Arc<Vec<u8>>,
    ) -> anyhow::Result<()> {
        let settings = &self.settings;
        let state = State::new(self.run, version, settings.groups_per_step(), settings.seed);
        let contents =
            trainer.contents(state, Arc::clone(&self.files.texts), Arc::clone(weights))?;
        self.files.checkpoints.begin(contents)
    }

    /// An error while the process is stopping only means that the coordinator has gone first.
    fn unless_stopping(&self, outcome: anyhow::Result<()>) -> anyhow::Result<bool> {
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if self.shutdown.requested() => {
                warn!(error = format!("{error:#}"), "the last step is not committed");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// One policy step on the groups of this rank, which must be all of its step: rewards to weights
/// over the whole step, then [`Trainer::policy_step`]. `None` where it was abandoned.
///
/// # Errors
/// Groups of another step, an objective without rewards, anything that is not finite.
pub fn train_on_groups(
    trainer: &mut Trainer,
    groups: &[RolloutGroup],
    settings: &Settings,
    abandoned: &dyn Fn() -> bool,
) -> anyhow::Result<Option<(StepReport, RolloutFigures)>> {
    let step = trainer.steps_taken();
    let estimator = estimator(settings.train.objective);
    let estimator = estimator.context("supervised training takes no rollouts")?;
    let mut rewards = RewardTable::new(groups, step, settings)?;
    rewards.all_reduce(trainer.collective())?;
    let reward_mean = rewards.mean();
    if settings.reward.shuffle {
        rewards.shuffle(settings.seed);
    }
    let mut tally = Tally::of(groups, step);
    let mut weighted: Vec<(&Rollout, f32)> = Vec::new();
    for group in groups {
        let weights = group_weights(&rewards.of(group), estimator);
        if weights.is_empty() {
            tally.groups_zero_variance += 1.0;
        } else {
            tally.groups_trained += 1.0;
        }
        weighted.extend(group.samples.iter().zip(weights.weights));
    }
    tally.all_reduce(trainer.collective())?;
    let report = trainer.policy_step(&weighted, abandoned)?;
    Ok(report.map(|report| (report, RolloutFigures { tally, reward_mean })))
}

fn record_staleness(groups: &[RolloutGroup], step: u32) {
    for oldest in groups.iter().filter_map(oldest_step) {
        metrics::STALENESS.record(f64::from(step.saturating_sub(oldest)), &[]);
    }
}

#[cfg(test)]
mod tests;
