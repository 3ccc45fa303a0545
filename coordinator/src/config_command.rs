//! `coordinator config`: settings as they resolve, or all their faults.

use security::Guard;

use crate::cli::ConfigCommand;
use crate::output::say;

/// Returns the exit code.
///
/// # Errors
/// All faults of the settings.
pub fn config(command: &ConfigCommand) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Show(args) => say(args.settings()?.to_toml().trim_end()),
        ConfigCommand::Check(args) => {
            Guard::open(&args.settings()?)?;
            say("the settings are sound");
        }
    }
    Ok(0)
}
