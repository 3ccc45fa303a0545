//! NCCL with one rank, by generations. More ranks need as many GPUs, which `tests/gpu/box.sh` has, or the
//! device out of software, where two may share one.

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

/// What both ranks have after each call, and what rank `rank` has of the part that it reduces.
fn sums(rank: usize, id: [u8; 128], device: &candle_core::Device) {
    let deadline = Duration::from_secs(60);
    let plan = NcclPlan { rank, world: 2, generation: Generation(1), id, deadline };
    let mut nccl = Nccl::join(plan, device).unwrap();
    let own = |scale: f32| [1.0f32, 2.0, 3.0, 4.0, 5.0].map(|x| x * scale + rank as f32);
    let both = |scale: f32| [1.0f32, 2.0, 3.0, 4.0, 5.0].map(|x| 2.0 * x * scale + 1.0);
    let mut values = own(1.0);
    nccl.all_reduce_sum(&mut values).unwrap();
    assert_eq!(values, both(1.0));
    let mut wide = [1e300f64 * (rank + 1) as f64];
    nccl.all_reduce_sum_f64(&mut wide).unwrap();
    assert_eq!(wide, [3e300]);
    // Five numbers are three and two; what the other reduces is of no account.
    let part = learner::collective::shard(5, rank, 2);
    let mut values = own(10.0);
    nccl.reduce_scatter_sum(&mut values).unwrap();
    assert_eq!(values[part.clone()], both(10.0)[part.clone()]);
    let mut values = [-1.0f32; 5];
    values[part.clone()].copy_from_slice(&both(3.0)[part]);
    nccl.all_gather(&mut values).unwrap();
    assert_eq!(values, both(3.0));
    let flat = Tensor::new(&own(2.0), device).unwrap();
    nccl.all_reduce_sum_on_device(&flat).unwrap();
    assert_eq!(flat.to_vec1::<f32>().unwrap(), both(2.0));
    nccl.barrier().unwrap();
}

#[test]
fn two_ranks_have_the_sums_and_parts_of_both() {
    if std::env::var_os("SOFTWARE_GPUS").is_none() {
        return; // a GPU has one rank
    }
    let (device, id) = (crate::device(), nccl_id().unwrap());
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let device = &device;
            scope.spawn(move || sums(rank, id, device));
        }
    });
}
