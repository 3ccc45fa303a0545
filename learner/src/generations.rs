//! The training thread from start to end: with each generation of ranks it joins them, comes to one
//! state with them and takes steps until these ranks are no more.

use anyhow::{Context, ensure};
use model::ModelFiles;
use proto::Formation;
use tracing::{info, warn};
use types::{PolicyVersion, TokenId};

use crate::align::Alignment;
use crate::assembler::Window;
use crate::checkpoint::{Checkpoint, Checkpoints, Stopping};
use crate::collective::{Collective, Lost};
use crate::seat::Seat;
use crate::step::Trainer;
use crate::train_loop::{Ended, Source, TrainLoop};

/// Gives the run's start once more.
pub(crate) type Reload = Box<dyn Fn() -> anyhow::Result<ModelFiles> + Send>;

/// Everything the training thread owns.
pub(crate) struct Generations {
    pub(crate) seat: Seat,
    pub(crate) train: TrainLoop,
    /// Taken by the first trainer.
    pub(crate) start: Option<ModelFiles>,
    pub(crate) reload: Reload,
    pub(crate) stops: Vec<TokenId>,
    /// What this rank has in hand, and the generation whose ranks last agreed on it.
    pub(crate) hand: Option<(Trainer, PolicyVersion)>,
}

impl Generations {
    /// # Errors
    /// What no other ranks would mend: numbers that are not finite, files, the coordinator.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        loop {
            let TrainLoop { ranks, runtime, shutdown, health, .. } = &mut self.train;
            let next = runtime.block_on(ranks.next(shutdown, health));
            let Some(formation) = next else { return Ok(()) };
            let outcome = self.take_part(&formation);
            if let Source::Groups(inbox) = &self.train.source {
                inbox.suspend();
            }
            match outcome {
                Ok(Ended::Done | Ended::Stopped) => return Ok(()),
                Ok(Ended::Superseded) => {
                    info!(generation = %formation.generation, "the ranks form anew");
                }
                Err(error) if error.is::<Lost>() => {
                    self.ask_for_others(&formation, &error)?;
                    if self.train.shutdown.requested() {
                        return Ok(());
                    }
                }
                Err(error) if error.is::<Stopping>() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The coordinator may know already that these ranks are no more.
    fn ask_for_others(&mut self, lost: &Formation, error: &anyhow::Error) -> anyhow::Result<()> {
        let reason = format!("{error:#}");
        if self.train.shutdown.requested() {
            return self.leave();
        }
        warn!(generation = %lost.generation, reason, "the ranks cannot go on");
        if self.train.ranks.superseded() {
            return Ok(());
        }
        let asked = self.train.outlet.reform(lost.generation, &reason);
        if self.train.shutdown.requested() { Ok(()) } else { asked }
    }

    /// A stop came while ranks waited for each other.
    fn leave(&mut self) -> anyhow::Result<()> {
        match &mut self.hand {
            Some((trainer, agreed)) if trainer.is_whole() && *agreed == self.train.version => {
                self.train.leave(trainer).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn take_part(&mut self, formation: &Formation) -> anyhow::Result<Ended> {
        let TrainLoop { ranks, shutdown, health, .. } = &self.train;
        let interrupt = ranks.interrupt(shutdown, health);
        let collective = self.seat.join(formation, interrupt)?;
        let (rank, world) = (collective.rank(), collective.world());
        let mut trainer = self.align(formation, collective)?;
        let version =
            PolicyVersion { generation: formation.generation, step: trainer.steps_taken() };
        info!(%version, rank, world, "the ranks are of one state");
        self.train.version = version;
        self.train.run = formation.run;
        match &self.train.source {
            Source::Groups(inbox) => {
                inbox.begin(version, Window::new(&self.train.settings, rank, world)?);
            }
            Source::Examples(feed) => feed.begin(version, (rank, world)),
        }
        let ended = self.train.run(&mut trainer);
        let agreed = PolicyVersion { step: trainer.steps_taken(), ..version };
        self.hand = Some((trainer, agreed));
        ended
    }

    /// A trainer in the state that all ranks have.
    fn align(
        &mut self,
        formation: &Formation,
        mut collective: Box<dyn Collective>,
    ) -> anyhow::Result<Trainer> {
        let offer = match &self.hand {
            Some((trainer, agreed)) => trainer.is_whole().then_some(*agreed),
            // A start is the same for all.
            None => Some(PolicyVersion::default()),
        };
        let committed = formation.committed.max(self.train.version.step);
        let (offers, committed) = exchange(offer, committed, collective.as_mut())?;
        let sharded = self.train.settings.train.shard_optimizer && collective.world() > 1;
        let alignment = Alignment::of(&offers, committed, sharded);
        info!(?alignment, committed, "going on");
        if alignment != Alignment::Checkpoint && collective.rank() == 0 {
            self.train.files.checkpoints.discard_after(committed, formation.run)?;
        }
        match alignment {
            Alignment::Keep => self.in_hand(collective),
            Alignment::From(rank) => {
                let mut trainer = self.in_hand(collective)?;
                if let Err(error) = trainer.share_from(rank) {
                    // The next ranks may need what this one has.
                    self.hand = Some((trainer, offer.unwrap_or_default()));
                    return Err(error);
                }
                Ok(trainer)
            }
            Alignment::Checkpoint => self.restored(formation, committed, collective),
        }
    }

    /// What this rank has, or the run's start.
    fn in_hand(&mut self, collective: Box<dyn Collective>) -> anyhow::Result<Trainer> {
        match self.hand.take() {
            Some((mut trainer, _)) => {
                trainer.regroup(collective)?;
                Ok(trainer)
            }
            None => self.fresh(collective),
        }
    }

    fn fresh(&mut self, collective: Box<dyn Collective>) -> anyhow::Result<Trainer> {
        let start = self.start.take().map_or_else(|| (self.reload)(), Ok)?;
        Trainer::new(&self.train.settings, start, &self.stops, collective)
    }

    /// Rank 0 says which checkpoint it is; all read it.
    fn restored(
        &mut self,
        formation: &Formation,
        committed: u32,
        mut collective: Box<dyn Collective>,
    ) -> anyhow::Result<Trainer> {
        // Two sets of weights would not fit everywhere.
        self.hand = None;
        let leads = collective.rank() == 0;
        let mut found = match leads {
            true => {
                self.train.files.checkpoints.settle()?;
                self.newest(formation.run, committed)?
            }
            false => None,
        };
        let rank = collective.rank();
        let mut step = [found.as_ref().map_or(0.0, |found| f64::from(found.state.step) + 1.0)];
        collective.all_reduce_sum_f64(&mut step)?;
        let step = (step[0] as u32).checked_sub(1);
        if let (false, Some(step)) = (leads, step) {
            let checkpoints = &self.train.files.checkpoints;
            found = Some(checkpoints.load_beside(formation.run, step, rank)?);
        }
        if leads {
            let checkpoints = &mut self.train.files.checkpoints;
            checkpoints.discard_after(step.unwrap_or(0), formation.run)?;
        }
        let mut trainer = self.fresh(collective)?;
        if let Some(checkpoint) = &found {
            let step = checkpoint.state.step;
            let name = || format!("cannot go on from the checkpoint of step {step}");
            trainer.restore(checkpoint).with_context(name)?;
            info!(step = trainer.steps_taken(), "goes on from a checkpoint");
        }
        Ok(trainer)
    }

    /// The newest good checkpoint that is not ahead of the last commit, on this machine or in the
    /// run's store. Damaged ones are passed over, as long as there is a good one.
    fn newest(&self, run: u64, committed: u32) -> anyhow::Result<Option<Checkpoint>> {
        let checkpoints = &self.train.files.checkpoints;
        let mut damaged = Vec::new();
        for (step, place) in checkpoints.copies(run, committed)? {
            match checkpoints.load(run, (step, place)) {
                Ok(checkpoint) => {
                    checkpoint.state.check_run(run)?;
                    let name = || format!("cannot go on from the checkpoint of step {step}");
                    checkpoint.state.check(&self.train.settings).with_context(name)?;
                    return Ok(Some(checkpoint));
                }
                Err(error) if !Checkpoints::may_pass_over(&error) => return Err(error),
                Err(error) => {
                    warn!(
                        step,
                        ?place,
                        error = format!("{error:#}"),
                        "a damaged checkpoint is passed over"
                    );
                    damaged.push(format!("{error:#}"));
                }
            }
        }
        ensure!(
            damaged.is_empty(),
            "no checkpoint of this run is good: {}; delete them to begin from the run's start",
            damaged.join("; ")
        );
        Ok(None)
    }
}

/// What every rank has, and the number of committed steps, which rank 0 knows best.
fn exchange(
    offer: Option<PolicyVersion>,
    committed: u32,
    collective: &mut dyn Collective,
) -> anyhow::Result<(Vec<Option<PolicyVersion>>, u32)> {
    let (rank, world) = (collective.rank(), collective.world());
    let mut slots = vec![0.0; 3 * world + 1];
    if let Some(PolicyVersion { generation, step }) = offer {
        slots[3 * rank..3 * rank + 3].copy_from_slice(&[
            1.0,
            f64::from(generation.0),
            f64::from(step),
        ]);
    }
    if rank == 0 {
        slots[3 * world] = f64::from(committed);
    }
    collective.all_reduce_sum_f64(&mut slots)?;
    let offers = slots[..3 * world].as_chunks().0.iter().map(|[there, generation, step]| {
        (*there > 0.0).then(|| PolicyVersion::new(*generation as u32, *step as u32))
    });
    Ok((offers.collect(), slots[3 * world] as u32))
}

#[cfg(test)]
mod tests;
