//! Ranks with a CUDA device each: sums of gradients go over NCCL, counts and barriers over the ring,
//! which also notices at once that a rank has died.

use candle_core::Tensor;
use types::Generation;

use super::{Collective, Nccl, Ring};

/// Two ways between the same ranks.
#[derive(Debug)]
pub struct OnDevices {
    ring: Ring,
    sums: Nccl,
}

impl OnDevices {
    #[must_use]
    pub fn new(ring: Ring, sums: Nccl) -> Self {
        Self { ring, sums }
    }
}

impl Collective for OnDevices {
    fn rank(&self) -> usize {
        self.ring.rank()
    }

    fn world(&self) -> usize {
        self.ring.world()
    }

    fn generation(&self) -> Generation {
        self.ring.generation()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        self.sums.all_reduce_sum(values)
    }

    fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> anyhow::Result<()> {
        self.ring.all_reduce_sum_f64(values)
    }

    fn reduce_scatter_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        self.sums.reduce_scatter_sum(values)
    }

    fn all_gather(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        self.sums.all_gather(values)
    }

    fn sums_on_device(&self) -> bool {
        self.sums.sums_on_device()
    }

    fn all_reduce_sum_on_device(&mut self, values: &Tensor) -> anyhow::Result<()> {
        self.sums.all_reduce_sum_on_device(values)
    }

    fn barrier(&mut self) -> anyhow::Result<()> {
        self.ring.barrier()
    }
}
