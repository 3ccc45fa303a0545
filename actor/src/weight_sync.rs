//! Follows the announced policy version: fetches it, checks it, hands it to the engine. A version
//! that does not fit is refused and the old one stays, truthfully labelled.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use model::{Decoder, ModelConfig, Placement};
use proto::{CoordinatorClient, Directive, ErrorCode, RpcError, WeightFiles};
use runtime::{Attempt, GaveUp, RetryPolicy, Shutdown, off_workers, retry, waiting};
use store::{Store, Versions, run_name};
use telemetry::Readiness;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use types::{PolicyVersion, WeightManifest};

use crate::handover::Command;
use crate::metrics;

/// Between two rounds of fetching where the coordinator does not answer.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Rounds for one version, before it is refused. No setting: long before they are over, a
/// coordinator that is gone ends the process, and one that is there serves the version.
const ROUNDS_MAX: u32 = 30;

pub struct WeightSync {
    pub coordinator: CoordinatorClient,
    pub directives: watch::Receiver<Directive>,
    pub engine: mpsc::Sender<Command>,
    /// What the engine is to have: the announced version, or the last good one.
    pub wanted: watch::Sender<Option<PolicyVersion>>,
    pub config: ModelConfig,
    /// What published weights are rounded to, and where they go.
    pub placement: Placement,
    /// `limits.weights_bytes`
    pub bytes_max: u64,
    /// Where versions lie on this machine, if they do.
    pub files: Option<WeightFiles>,
    /// Where they lie for all machines, if they do.
    pub store: Option<Store>,
    pub readiness: Readiness,
}

impl WeightSync {
    /// Until the shutdown.
    ///
    /// # Errors
    /// A version that cannot be used while there is none from before. Otherwise a bad one is
    /// refused and the one from before stays.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let stop = shutdown.wait();
        tokio::select! {
            () = stop => Ok(()),
            outcome = self.follow() => outcome,
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let (mut good, mut refused): (Option<PolicyVersion>, _) = (None, None);
        loop {
            let announced = self.directives.borrow_and_update().version;
            let news = announced.filter(|_| announced != good && announced != refused);
            let Some(version) = news else {
                let _waits = good.is_none().then(|| waiting("the first weights", None));
                if self.directives.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            };
            self.wanted.send_replace(Some(version));
            let failure = match self.obtain(version).await {
                Ok(decoder) => {
                    if self.engine.send(Command::Weights { decoder, version }).await.is_err() {
                        return Ok(());
                    }
                    good = Some(version);
                    self.readiness.set("weights");
                    continue;
                }
                Err(failure) => failure,
            };
            let kept = good.map_or_else(|| "none".to_owned(), |good| good.to_string());
            warn!(%version, kept, error = format!("{failure:#}"), "weights refused");
            metrics::WEIGHTS_REFUSED.increment(1, &[]);
            self.wanted.send_replace(good);
            refused = Some(version);
            // Where the next version is there already, that one is tried first.
            let superseded = self.directives.borrow().version != refused;
            if good.is_none() && !superseded {
                return Err(failure.context(format!(
                    "weights {version} cannot be used and there are none from before: give this \
                     actor the strong.model and the limits of the learner"
                )));
            }
        }
    }

    /// Fetched, checked and ready to sample with.
    async fn obtain(&self, version: PolicyVersion) -> anyhow::Result<Decoder> {
        let model = (&self.config, &self.placement);
        if let Some((manifest, bytes, way)) = self.taken(version).await {
            metrics::WEIGHTS_FETCHED.increment(1, &[("way", way)]);
            return decoder(model, version, &manifest, &bytes);
        }
        for _ in 0..ROUNDS_MAX {
            match self.fetch(version).await {
                Ok((manifest, bytes)) => {
                    metrics::WEIGHTS_FETCHED.increment(1, &[("way", "stream")]);
                    return decoder(model, version, &manifest, &bytes);
                }
                Err(gave_up) if gave_up.error.code.retryable() => {
                    warn!(%version, error = %gave_up.error, "weights not fetched, will try again");
                    tokio::time::sleep(ROUND_PAUSE).await;
                }
                Err(gave_up) => return Err(gave_up.into()),
            }
        }
        bail!("weights {version} could not be fetched in {ROUNDS_MAX} rounds");
    }

    /// From where it lies as a file, on this machine or in the run's store.
    async fn taken(
        &self,
        version: PolicyVersion,
    ) -> Option<(WeightManifest, Vec<u8>, &'static str)> {
        if self.files.is_none() && self.store.is_none() {
            return None;
        }
        let manifest = self.coordinator.clone().weight_manifest(version).await.ok()?;
        if manifest.version != version || manifest.bytes > self.bytes_max {
            return None;
        }
        if let Some(bytes) = self.taken_from_file(&manifest).await {
            return Some((manifest, bytes, "file"));
        }
        let bytes = self.taken_from_store(&manifest).await?;
        Some((manifest, bytes, "store"))
    }

    async fn taken_from_file(&self, manifest: &WeightManifest) -> Option<Vec<u8>> {
        let (files, manifest) = (self.files.clone()?, manifest.clone());
        let version = manifest.version;
        let taken = off_workers(move || files.take(&manifest)).await;
        taken.inspect_err(|error| debug!(%version, %error, "no file of the weights")).ok()
    }

    async fn taken_from_store(&self, manifest: &WeightManifest) -> Option<Vec<u8>> {
        let run = self.directives.borrow().formation.as_ref().map(|formation| formation.run)?;
        let versions = Versions::new(self.store.clone()?, &run_name(run));
        let (version, taken) = (manifest.version, versions.take(manifest).await);
        taken.inspect_err(|error| warn!(%version, %error, "the store has no such weights")).ok()
    }

    /// A transfer that arrives torn is as good as none: it is fetched again, a few times.
    async fn fetch(
        &self,
        version: PolicyVersion,
    ) -> Result<(WeightManifest, Vec<u8>), GaveUp<RpcError>> {
        retry(RetryPolicy::default(), "fetching weights", || {
            let (mut coordinator, bytes_max) = (self.coordinator.clone(), self.bytes_max);
            async move {
                let fetched = coordinator.fetch_weights(version, bytes_max).await;
                fetched.map_err(|error| {
                    match error.code.retryable() || error.code == ErrorCode::Invalid {
                        true => Attempt::Again(error),
                        false => Attempt::Stop(error),
                    }
                })
            }
        })
        .await
    }
}

/// Weights ready to sample with.
///
/// # Errors
/// Another version than was asked for, tensors of another model, broken or non-finite bytes.
pub fn decoder(
    (config, placement): (&ModelConfig, &Placement),
    version: PolicyVersion,
    manifest: &WeightManifest,
    bytes: &[u8],
) -> anyhow::Result<Decoder> {
    let found = manifest.version;
    ensure!(found == version, "asked for weights {version} and got {found}");
    let expected = config.tensors();
    ensure!(
        manifest.tensors.len() == expected.len(),
        "weights {version} announce {} tensors, the strong model has {}",
        manifest.tensors.len(),
        expected.len()
    );
    for (name, shape) in expected {
        let tensor = manifest.tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.with_context(|| format!("weights {version} lack tensor {name}"))?;
        let same = tensor.shape.iter().map(|n| *n as usize).eq(shape.iter().copied());
        ensure!(
            same,
            "weights {version}: tensor {name} has shape {:?}, the strong model's has {shape:?}",
            tensor.shape
        );
    }
    // The manifest fits the model; now the bytes must be what it says.
    let origin = format!("weights {version}");
    let mut announced = manifest.tensors.clone();
    announced.sort_by(|a, b| a.name.cmp(&b.name));
    let held = model::tensor_infos(bytes, &origin)?;
    let differs = held.iter().zip(&announced).find(|(held, announced)| held != announced);
    ensure!(
        differs.is_none() && held.len() == announced.len(),
        "{origin} hold other tensors than they announce: {differs:?}"
    );
    let tensors = model::load(config, bytes, &origin, placement)?;
    Ok(Decoder::new(config.clone(), tensors)?)
}

#[cfg(test)]
mod tests {
    use model::{DType, ModelSource, Tensors, manifest, to_safetensors};

    use super::*;

    const V: PolicyVersion = PolicyVersion { generation: types::Generation(1), step: 4 };

    fn published(change: impl FnOnce(&mut Tensors)) -> anyhow::Result<Decoder> {
        let source = ModelSource::parse("fresh:miniature-strong").unwrap();
        let files = source.load(1, &Placement::cpu(DType::F32)).unwrap();
        let mut tensors = files.tensors;
        change(&mut tensors);
        let bytes = to_safetensors(&tensors).unwrap();
        decoder(
            (&files.config, &Placement::cpu(DType::F32)),
            V,
            &manifest(V, &bytes).unwrap(),
            &bytes,
        )
    }

    #[test]
    fn only_whole_finite_weights_of_the_strong_model_are_used() {
        let name = "model.layers.1.self_attn.q_proj.weight";
        assert!(published(|_| {}).is_ok());
        let refused = |change: fn(&mut Tensors, &str)| {
            format!("{:#}", published(|tensors| change(tensors, name)).unwrap_err())
        };
        let lacking = refused(|tensors, name| drop(tensors.remove(name)));
        assert!(lacking.contains("announce 29 tensors, the strong model has 30"), "{lacking}");
        let turned = refused(|tensors, name| {
            let half = tensors[name].narrow(0, 0, 48).unwrap().contiguous().unwrap();
            tensors.insert(name.to_owned(), half);
        });
        assert!(turned.contains("q_proj.weight has shape [48, 96]"), "{turned}");
        let broken = refused(|tensors, name| {
            let nan = (tensors[name].zeros_like().unwrap() / 0.0).unwrap();
            tensors.insert(name.to_owned(), nan);
        });
        assert!(broken.contains("NaN or infinity"), "{broken}");
    }

    #[test]
    fn another_version_than_announced_is_refused() {
        let source = ModelSource::parse("fresh:miniature-strong").unwrap();
        let files = source.load(1, &Placement::cpu(DType::F32)).unwrap();
        let bytes = to_safetensors(&files.tensors).unwrap();
        let other = manifest(PolicyVersion::new(1, 5), &bytes).unwrap();
        let error = decoder((&files.config, &Placement::cpu(DType::F32)), V, &other, &bytes)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "asked for weights g1s4 and got g1s5");
    }
}
