//! Room where the run directory lies: asked for before a run begins, watched while it lasts. What a
//! checkpoint needs is the learner's to say.

use anyhow::Context;
use runtime::{Shutdown, free_bytes, look_again};
use settings::Settings;
use telemetry::{DiskWatch, Readiness};

use crate::metrics;
use crate::run_dir::RunDir;

/// # Errors
/// Less is free than is to stay free.
pub(crate) fn check(settings: &Settings, run_dir: &RunDir) -> anyhow::Result<()> {
    let path = run_dir.path();
    let free = free_bytes(path).with_context(|| format!("no free space of {}", path.display()))?;
    Ok(settings.checkpoint.check_room(path, free, 0)?)
}

/// Until the shutdown.
pub(crate) fn watch(
    settings: &Settings,
    run_dir: &RunDir,
    readiness: Readiness,
    shutdown: Shutdown,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let watch = DiskWatch {
        dir: run_dir.path().to_owned(),
        reserve_bytes: settings.checkpoint.free_bytes_min,
        gauge: &metrics::DISK_FREE,
        readiness,
        free_bytes,
    };
    async move {
        tokio::select! {
            () = shutdown.wait() => {}
            () = look_again(DiskWatch::PERIOD, move || watch.look()) => {}
        }
        Ok(())
    }
}
