//! The collective of one rank: every sum is its own value.

use types::Generation;

use super::Collective;

#[derive(Clone, Copy, Debug)]
pub struct Solo {
    generation: Generation,
}

impl Solo {
    #[must_use]
    pub fn new(generation: Generation) -> Self {
        Self { generation }
    }
}

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn all_reduce_sum(&mut self, _values: &mut [f32]) -> anyhow::Result<()> {
        Ok(())
    }

    fn all_reduce_sum_f64(&mut self, _values: &mut [f64]) -> anyhow::Result<()> {
        Ok(())
    }

    fn reduce_scatter_sum(&mut self, _values: &mut [f32]) -> anyhow::Result<()> {
        Ok(())
    }

    fn all_gather(&mut self, _values: &mut [f32]) -> anyhow::Result<()> {
        Ok(())
    }

    fn barrier(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_ranks_sums_are_its_values() {
        let mut solo = Solo::new(Generation(3));
        let (mut gradients, mut counts) = ([1.5_f32, -2.0], [7.0_f64]);
        solo.all_reduce_sum(&mut gradients).unwrap();
        solo.all_reduce_sum_f64(&mut counts).unwrap();
        solo.reduce_scatter_sum(&mut gradients).unwrap();
        solo.all_gather(&mut gradients).unwrap();
        solo.barrier().unwrap();
        assert_eq!((gradients, counts), ([1.5, -2.0], [7.0]));
        assert_eq!((solo.rank(), solo.world(), solo.generation()), (0, 1, Generation(3)));
    }
}
