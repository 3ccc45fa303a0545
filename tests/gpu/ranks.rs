//! NCCL with one rank, by generations. More ranks need as many GPUs: `tests/gpu/box.sh`.

use std::time::Duration;

use candle_core::Tensor;
use learner::collective::{Collective, Nccl, NcclPlan, nccl_id};
use types::Generation;

#[test]
fn one_ranks_sums_are_its_own_in_every_generation() {
    let device = crate::device();
    if device.is_cpu() {
        return; // NCCL has no CPUs
    }
    for generation in [1, 2] {
        let plan = NcclPlan {
            rank: 0,
            world: 1,
            generation: Generation(generation),
            id: nccl_id().unwrap(),
            deadline: Duration::from_secs(60),
        };
        let mut nccl = Nccl::join(plan, &device).unwrap();
        let (mut narrow, mut wide) = ([1.5f32, -2.0, 3.0], [7.0f64, 1e300]);
        nccl.all_reduce_sum(&mut narrow).unwrap();
        nccl.all_reduce_sum_f64(&mut wide).unwrap();
        nccl.reduce_scatter_sum(&mut narrow).unwrap();
        nccl.all_gather(&mut narrow).unwrap();
        nccl.barrier().unwrap();
        assert_eq!((narrow, wide), ([1.5, -2.0, 3.0], [7.0, 1e300]));
        let flat = Tensor::new(&[4.0f32, 5.0], &device).unwrap();
        nccl.all_reduce_sum_on_device(&flat).unwrap();
        assert_eq!(flat.to_vec1::<f32>().unwrap(), [4.0, 5.0]);
        assert_eq!((nccl.world(), nccl.generation()), (1, Generation(generation)));
    }
}
