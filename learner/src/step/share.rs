//! One state for all ranks: what a rank has of it, and handing it from one to all. Which rank has
//! the right one is decided outside.

use anyhow::ensure;

use super::Trainer;
use crate::collective::Collective;

impl Trainer {
    /// Whether weights and moments are those of one step.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.torn.get()
    }

    /// Whether this rank alone has all moments.
    #[must_use]
    pub fn has_all(&self) -> bool {
        self.optimizer.part().len() == self.optimizer.parameters().elem_count()
    }

    /// Goes on with other ranks, of as many as before.
    ///
    /// # Errors
    /// Another place or number of ranks, on which the part of the optimiser depends.
    pub fn regroup(&mut self, collective: Box<dyn Collective>) -> anyhow::Result<()> {
        let place = |of: &dyn Collective| (of.rank(), of.world());
        let (found, expected) = (place(collective.as_ref()), place(self.collective.as_ref()));
        ensure!(
            found == expected,
            "this is rank {} of {} now and was rank {} of {}: start the learner anew",
            found.0,
            found.1,
            expected.0,
            expected.1
        );
        self.collective = collective;
        Ok(())
    }

    /// All ranks take over weights, moments and step of one that has all of them. Every rank has to
    /// call it.
    ///
    /// # Errors
    /// A rank is gone; this one's state is as before then.
    pub fn share_from(&mut self, rank: usize) -> anyhow::Result<()> {
        let all = 0..self.optimizer.parameters().elem_count();
        let mut weights = vec![0.0; all.len()];
        self.optimizer.parameters().read(&all, &mut weights)?;
        let mut moments = self.optimizer.moments()?;
        self.collective.broadcast(rank, &mut weights)?;
        for moments in &mut moments {
            self.collective.broadcast(rank, moments)?;
        }
        let mut counts = [0.0; 2];
        if self.collective.rank() == rank {
            counts = [f64::from(self.steps_taken), self.optimizer.step_count() as f64];
        }
        self.collective.all_reduce_sum_f64(&mut counts)?;
        self.torn.set(true);
        self.optimizer.parameters().write(&all, &weights)?;
        self.optimizer.set_moments(moments, counts[1] as u64)?;
        self.steps_taken = counts[0] as u32;
        self.torn.set(false);
        Ok(())
    }
}
