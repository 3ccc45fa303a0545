//! Where a program computes, as the settings say. Which device a process may see is decided by
//! whoever starts it.

use anyhow::{Context, bail};
use device::{Wish, open};
use model::{DType, Device, Placement};
use settings::{DeviceChoice, Precision, Settings};

/// What a precision is on this device.
#[must_use]
pub fn dtype(precision: Precision, device: &Device) -> DType {
    match precision.on(!device.is_cpu()) {
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
        Precision::F32 | Precision::Auto => DType::F32,
    }
}

/// The device of a process, for all of its threads.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Of what forward passes read.
    pub placement: Placement,
    /// Why this device, for the log.
    pub why: String,
}

impl Compute {
    /// # Errors
    /// CUDA is asked for and not there; another precision than f32 on the CPU.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let wish = match settings.compute.device {
            DeviceChoice::Auto => Wish::Auto,
            DeviceChoice::Cpu => Wish::Cpu,
            DeviceChoice::Cuda => Wish::Cuda,
        };
        let choice = open(wish).context("compute.device")?;
        let dtype = dtype(settings.compute.precision, &choice.device);
        if choice.device.is_cpu() && dtype != DType::F32 {
            bail!(
                "compute.precision is {} but the CPU computes in f32 ({}): set it to \"f32\"",
                dtype.as_str(),
                choice.why
            );
        }
        Ok(Self {
            placement: Placement { dtype, device: choice.device, matrices: None },
            why: choice.why,
        })
    }

    /// `cpu` or `cuda`.
    #[must_use]
    pub fn device_name(&self) -> &'static str {
        if self.placement.device.is_cpu() { "cpu" } else { "cuda" }
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        &self.placement.device
    }

    /// The same device in f32, for what is never rounded.
    #[must_use]
    pub fn masters(&self) -> Placement {
        Placement { device: self.placement.device.clone(), ..Placement::cpu(DType::F32) }
    }

    /// As `masters`, for weights that are not trained: matrices are rounded once to what is computed
    /// in, as they would be wherever they are read.
    #[must_use]
    pub fn frozen(&self) -> Placement {
        Placement { matrices: Some(self.placement.dtype), ..self.masters() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes_in_f32_only() {
        let with = |precision| {
            let mut settings = Settings::default();
            settings.compute.device = DeviceChoice::Cpu;
            settings.compute.precision = precision;
            Compute::open(&settings)
        };
        let compute = with(Precision::F32).unwrap();
        assert_eq!((compute.device_name(), compute.placement.dtype), ("cpu", DType::F32));
        assert_eq!(with(Precision::Auto).unwrap().placement.dtype, DType::F32);
        let error = format!("{:#}", with(Precision::Bf16).expect_err("refused"));
        assert!(error.contains("compute.precision is bf16"), "{error}");
    }
}
