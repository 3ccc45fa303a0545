//! A device against the CPU: logits, gradients, tokens, updates, and sums over ranks.
//! `TANDEM_TEST_DEVICE=cuda` names the device; without it the CPU is checked against itself, which
//! only shows that the checks run. `tests/gpu/run.sh` calls them on a GPU.
#![allow(clippy::unwrap_used, reason = "all of this is test code, its helpers too")]

mod gradients;
mod logits;
#[cfg(feature = "nccl")]
mod ranks;
mod sampler;
mod tiny;
mod trainer;

use candle_core::Device;
use device::{Wish, open};

#[test]
fn a_device_that_is_not_there_is_refused_with_the_way_out() {
    if std::env::var_os("TANDEM_TEST_DEVICE").is_some() {
        return;
    }
    if let Err(error) = open(Wish::Cuda) {
        let text = error.to_string();
        assert!(text.contains("CUDA") && text.contains("\"cpu\""), "{text}");
    }
}

/// The device that is checked.
fn device() -> Device {
    let wish = match std::env::var("TANDEM_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Wish::Cpu,
        Ok("cuda") => Wish::Cuda,
        Ok(other) => panic!("TANDEM_TEST_DEVICE is cpu or cuda, not {other:?}"),
    };
    open(wish).expect("the device that is asked for is usable").device
}
