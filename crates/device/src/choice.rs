//! Opening the device that computes. Which programs may share one is the coordinator's business.

use candle_core::{Device, Result};

/// What the settings ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// CUDA where this build has it and a device is usable, else the CPU.
    Auto,
    Cpu,
    Cuda,
}

/// A device, and what the log should say of the choice.
#[derive(Clone, Debug)]
pub struct Choice {
    pub device: Device,
    pub why: String,
}

/// The first CUDA device that the process sees (`CUDA_VISIBLE_DEVICES` says which), or the CPU.
///
/// # Errors
/// CUDA is asked for, and this build has none or no device is usable.
pub fn open(wish: Wish) -> Result<Choice> {
    let cpu = |why: String| Choice { device: Device::Cpu, why };
    match wish {
        Wish::Cpu => Ok(cpu("the settings ask for it".to_owned())),
        Wish::Auto => Ok(match cuda() {
            Ok(device) => Choice { device, why: "a CUDA device is usable".to_owned() },
            Err(error) => cpu(error.to_string()),
        }),
        Wish::Cuda => match cuda() {
            Ok(device) => Ok(Choice { device, why: "the settings ask for it".to_owned() }),
            Err(error) => candle_core::bail!("{error}: set device to \"cpu\" or \"auto\""),
        },
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device> {
    candle_core::bail!("this build has no CUDA (cargo feature `cuda`)")
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device> {
    match crate::launch::open() {
        Ok(device) => Ok(device),
        Err(error) => candle_core::bail!("no CUDA device is usable ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_cuda_is_refused_with_the_way_out() {
        assert!(open(Wish::Cpu).unwrap().device.is_cpu());
        let auto = open(Wish::Auto).unwrap();
        if auto.device.is_cpu() {
            assert!(auto.why.contains("CUDA"), "{}", auto.why);
            let error = open(Wish::Cuda).expect_err("no device").to_string();
            assert!(error.contains("CUDA") && error.contains("\"cpu\""), "{error}");
        }
    }
}
