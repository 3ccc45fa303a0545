//! The flags that actor, learner and weak-server share.

use anyhow::Context;
use clap::Args;
use settings::{Layers, Settings};

/// Where settings come from, and this process's place in the run.
#[derive(Args, Clone, Debug, Default)]
pub struct MemberArgs {
    /// A settings file, or the name of a preset.
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<String>,
    /// Overrides one setting; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Among the processes of this program, from 0: a learner's rank. Without it a learner has 0,
    /// and others get the lowest number that is free.
    #[arg(long)]
    pub index: Option<u32>,
    /// Where the coordinator listens; overrides `coordinator.address`.
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
    /// End when standard input closes: whoever started this process is gone.
    #[arg(long)]
    pub exit_with_parent: bool,
}

impl MemberArgs {
    /// # Errors
    /// All faults of the settings, or no address of a coordinator.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let layers = Layers { file: self.config.clone(), set: self.set.clone(), environment: None };
        let mut settings = layers.load()?;
        if let Some(address) = &self.coordinator {
            settings.coordinator.address.clone_from(address);
        }
        let address = &settings.coordinator.address;
        (!address.is_empty()).then_some(()).context(
            "no coordinator to join: give --coordinator HOST:PORT or set coordinator.address \
             (`coordinator launch` starts all programs by itself)",
        )?;
        Ok(settings)
    }
}
