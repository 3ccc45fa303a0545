//! The learner of a session without training: it publishes the strong model as it is, from whatever
//! kind of file that is in, and waits for the stop.

use std::sync::Arc;

use anyhow::Context;
use member::{Membership, Process};
use model::{ModelSource, Placement};
use settings::Settings;
use tokio::runtime::Handle;
use types::{PolicyVersion, WeightManifest};

use crate::publisher::{CoordinatorOutlet, Outlet, Places};
use crate::rank_watch::RankWatch;

/// # Errors
/// A model that cannot be read, no coordinator, a version that does not arrive.
pub async fn publish_only(process: Process) -> anyhow::Result<()> {
    let settings = Arc::clone(&process.settings);
    let (mut manifest, weights) = runtime::off_workers(move || load(&settings)).await?;
    process.readiness.set("model");
    // Nobody sends it anything.
    let membership = process.join(String::new(), String::new()).await?;
    let Membership { tie, directives, .. } = membership;
    let mut ranks = RankWatch::new(directives);
    let Some(formation) = ranks.next(&process.shutdown, &process.health).await else {
        return Ok(());
    };
    manifest.version.generation = formation.generation;
    let (runtime, shutdown) = (Handle::current(), process.shutdown.clone());
    let mut outlet = CoordinatorOutlet::new(runtime, tie, shutdown.clone(), Places::default());
    let (readiness, health) = (process.readiness.clone(), process.health.clone());
    process.tasks.spawn_thread("publish", move || {
        let published = outlet.publish(&manifest, &weights);
        if shutdown.requested() {
            return Ok(());
        }
        published?;
        tracing::info!(version = %manifest.version, bytes = weights.len(), "published the model");
        readiness.set("published");
        health.rest();
        Ok(())
    })?;
    process.shutdown.wait().await;
    Ok(())
}

/// The weights in the type that they are stored in, on the CPU: they only travel.
fn load(settings: &Settings) -> anyhow::Result<(WeightManifest, Vec<u8>)> {
    let source = ModelSource::parse(&settings.strong.model).context("strong.model")?;
    let placement = Placement::cpu(source.stored_dtype().context("strong.model")?);
    let files = source.load(settings.seed, &placement).context("strong.model")?;
    let weights = model::to_safetensors(&files.tensors)?;
    // Of which generation it is becomes known with the ranks.
    Ok((model::manifest(PolicyVersion::default(), &weights)?, weights))
}
