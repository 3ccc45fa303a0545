//! The kernels' sources as one translation unit. They are compiled when the first is launched.

/// CUDA C++, without a header.
pub const KERNELS: &str = concat!(
    include_str!("../kernels/numbers.cu"),
    include_str!("../kernels/layers.cu"),
    include_str!("../kernels/attention.cu"),
    include_str!("../kernels/sampler.cu"),
    include_str!("../kernels/optimizer.cu"),
);
