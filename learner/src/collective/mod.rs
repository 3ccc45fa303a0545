//! What couples the ranks of one learner: sums over all of them, and nothing else. Every rank
//! enters every call in the same order, also with zeros. Which transport carries the sums is a
//! matter of the implementation.

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "nccl")]
mod on_devices;
mod patience;
mod ring;
mod solo;

use std::ops::Range;

#[cfg(feature = "nccl")]
pub use nccl::{NCCL_ID_BYTES, Nccl, NcclPlan, nccl_id};
#[cfg(feature = "nccl")]
pub use on_devices::OnDevices;
pub use patience::Interrupt;
pub use ring::{Protection, Ring, RingPlan};
pub use solo::Solo;

use types::Generation;

/// The part of `len` values that is a rank's own; the last ranks' may be shorter or empty.
#[must_use]
pub fn shard(len: usize, rank: usize, world: usize) -> Range<usize> {
    let part = len.div_ceil(world);
    (part * rank).min(len)..(part * (rank + 1)).min(len)
}

/// The ranks cannot go on together: a rank is gone, hangs or does something else, or the wait for it
/// was called off. Forming anew may help. It is found in the chain of such errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ranks of generation {generation} cannot go on")]
pub struct Lost {
    pub generation: Generation,
}

/// The ranks of one generation.
pub trait Collective: Send {
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world(&self) -> usize;

    /// Raised whenever the set of ranks forms anew.
    fn generation(&self) -> Generation;

    /// Replaces `values` by their sums over all ranks.
    ///
    /// # Errors
    /// A rank is gone or entered with another length; the values are not to be used then.
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()>;

    /// The same for counts and statistics.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> anyhow::Result<()>;

    /// Leaves each rank the sums of its own part ([`shard`]); the rest is not to be used.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn reduce_scatter_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()>;

    /// Gives every rank the own parts of all.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn all_gather(&mut self, values: &mut [f32]) -> anyhow::Result<()>;

    /// Gives every rank the values of one of them. The others' are not looked at.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn broadcast(&mut self, from: usize, values: &mut [f32]) -> anyhow::Result<()> {
        if self.rank() != from {
            values.fill(0.0);
        }
        self.all_reduce_sum(values)
    }

    /// Whether [`Collective::all_reduce_sum_on_device`] is there.
    fn sums_on_device(&self) -> bool {
        false
    }

    /// As [`Collective::all_reduce_sum`], of an f32 buffer on the ranks' own CUDA devices, in place.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`]; always where [`Collective::sums_on_device`] says no.
    fn all_reduce_sum_on_device(&mut self, _values: &candle_core::Tensor) -> anyhow::Result<()> {
        anyhow::bail!("these ranks sum on the host")
    }

    /// Returns once every rank has called it, however long the others' work before it takes.
    ///
    /// # Errors
    /// A rank is gone.
    fn barrier(&mut self) -> anyhow::Result<()>;
}
