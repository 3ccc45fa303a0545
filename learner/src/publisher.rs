//! The training thread's line to the coordinator: policy versions and committed steps. What they
//! contain is decided by the training loop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use member::Tie;
use proto::{CoordinatorClient, Directive, ErrorCode, RpcError, StepRecord, WeightFiles};
use runtime::Shutdown;
use settings::{Checkpoint, Settings};
use store::{Store, StoreError, Versions, run_name};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};
use types::{Generation, MemberId, WeightManifest};

use crate::collective::Lost;
use crate::metrics;

/// A version or a commit that is under way when the stop comes is given so long.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Where policy versions and committed steps go, in order. Calls block.
pub trait Outlet: Send {
    /// # Errors
    /// `Lost` where it is of ranks that are no more; otherwise the version did not arrive.
    fn publish(&mut self, manifest: &WeightManifest, bytes: &[u8]) -> anyhow::Result<()>;

    /// # Errors
    /// `Lost` where it is of ranks that are no more; otherwise the step is not known to be
    /// committed.
    fn commit(&mut self, record: &StepRecord) -> anyhow::Result<()>;

    /// Asks for ranks after those of this generation.
    ///
    /// # Errors
    /// The coordinator does not take it.
    fn reform(&mut self, generation: Generation, reason: &str) -> anyhow::Result<()>;
}

/// The coordinator, called from a thread outside the async runtime.
pub struct CoordinatorOutlet {
    runtime: Handle,
    tie: Tie,
    shutdown: Shutdown,
    places: Places,
}

/// Where versions lie for others than the coordinator's stream.
#[derive(Debug, Default)]
pub struct Places {
    pub shared: Option<SharedDisk>,
    pub stored: Option<StoredVersions>,
}

/// Versions on their way into the run's store.
#[derive(Debug)]
pub struct StoredVersions {
    store: Store,
    /// Say which run it is.
    directives: watch::Receiver<Directive>,
    /// The last ones, oldest first.
    kept: VecDeque<WeightManifest>,
    keep: usize,
}

impl StoredVersions {
    /// None where weights do not travel through the store.
    ///
    /// # Errors
    /// A store that cannot be used.
    pub fn open(
        settings: &Settings,
        directives: watch::Receiver<Directive>,
    ) -> anyhow::Result<Option<Self>> {
        if !settings.weights.store {
            return Ok(None);
        }
        let store = Store::open(&settings.store)?;
        let keep = settings.coordinator.weights_kept as usize;
        Ok(store.map(|store| Self { store, directives, kept: VecDeque::new(), keep }))
    }

    /// Stores a version and deletes what the coordinator does not keep either, in the run's name.
    async fn offer(&mut self, manifest: &WeightManifest, bytes: &[u8]) -> Result<(), StoreError> {
        let formation = self.directives.borrow().formation.clone();
        let Some(formation) = formation else { return Ok(()) };
        let versions = Versions::new(self.store.clone(), &run_name(formation.run));
        versions.offer(manifest, bytes).await?;
        self.kept.push_back(manifest.clone());
        while self.kept.len() > self.keep {
            self.kept.pop_front();
        }
        versions.retain(self.kept.make_contiguous()).await
    }
}

/// Where versions lie for a coordinator and actors on this machine.
#[derive(Clone, Debug)]
pub struct SharedDisk {
    files: WeightFiles,
    room: Checkpoint,
}

impl SharedDisk {
    /// None where weights travel as streams only.
    #[must_use]
    pub fn new(settings: &Settings) -> Option<Self> {
        let files = WeightFiles::new(settings.weights_dir()?);
        Some(Self { files, room: settings.checkpoint.clone() })
    }

    fn offer(&self, manifest: &WeightManifest, bytes: &[u8]) -> anyhow::Result<()> {
        let there = self.files.dir().ancestors().find(|path| path.exists());
        let there = there.context("no such directory")?;
        self.room.check_room(there, runtime::free_bytes(there)?, manifest.bytes)?;
        Ok(self.files.offer(manifest, bytes)?)
    }
}

impl CoordinatorOutlet {
    #[must_use]
    pub fn new(runtime: Handle, tie: Tie, shutdown: Shutdown, places: Places) -> Self {
        Self { runtime, tie, shutdown, places }
    }

    /// Before it is announced; a stop ends it soon.
    fn store(&mut self, manifest: &WeightManifest, bytes: &[u8]) {
        let Some(stored) = &mut self.places.stored else { return };
        let (version, stop) = (manifest.version, self.shutdown.wait());
        let outcome = self.runtime.block_on(async {
            tokio::select! {
                outcome = stored.offer(manifest, bytes) => Some(outcome),
                () = stop => None,
            }
        });
        if let Some(Err(error)) = &outcome {
            warn!(%version, %error, "the weights are not in the store, they travel as streams");
        }
        metrics::STORED.increment(u64::from(matches!(outcome, Some(Ok(())))), &[]);
    }

    /// Whether the version lies in a file now.
    fn offered(&self, manifest: &WeightManifest, bytes: &[u8]) -> bool {
        let offered = self.places.shared.as_ref().map(|shared| shared.offer(manifest, bytes));
        if let Some(Err(error)) = &offered {
            let (version, error) = (manifest.version, format!("{error:#}"));
            warn!(%version, error, "no file of the weights, they travel as a stream");
        }
        matches!(offered, Some(Ok(())))
    }

    /// For ranks of `generation`; a stop ends it soon.
    fn insist<F, Call>(&self, generation: Generation, what: &str, call: Call) -> anyhow::Result<()>
    where
        F: Future<Output = Result<(), RpcError>>,
        Call: Fn(CoordinatorClient, MemberId) -> F,
    {
        let tried = self.tie.insist(what, call);
        let stop = self.shutdown.wait();
        self.runtime.block_on(async {
            tokio::select! {
                outcome = tried => outcome.map_err(|failure| match failure.error.code {
                    ErrorCode::Superseded => {
                        anyhow::Error::from(failure).context(Lost { generation })
                    }
                    _ => failure.into(),
                }),
                () = async { stop.await; tokio::time::sleep(STOP_GRACE).await } => {
                    Err(anyhow!("{what}: given up, the process is stopping"))
                }
            }
        })
    }
}

impl Outlet for CoordinatorOutlet {
    fn publish(&mut self, manifest: &WeightManifest, bytes: &[u8]) -> anyhow::Result<()> {
        self.store(manifest, bytes);
        let what = format!("publishing {}", manifest.version);
        let filed = AtomicBool::new(self.offered(manifest, bytes));
        let published = self.insist(manifest.version.generation, &what, |mut coordinator, _| {
            let (manifest, filed) = (manifest.clone(), &filed);
            async move {
                if filed.load(Ordering::Relaxed) {
                    match coordinator.publish_filed(manifest.clone()).await {
                        Err(error) if error.code == ErrorCode::NotFound => {
                            info!(%error, "the coordinator shares no disk, weights travel as streams");
                            filed.store(false, Ordering::Relaxed);
                        }
                        answered => return answered,
                    }
                }
                coordinator.publish_weights(manifest, bytes).await
            }
        });
        let way = if filed.into_inner() { "file" } else { "stream" };
        if let Some(shared) = &self.places.shared
            && (way == "stream" || published.is_err())
        {
            shared.files.withdraw(manifest);
        }
        metrics::PUBLISHED.increment(u64::from(published.is_ok()), &[("way", way)]);
        published
    }

    fn commit(&mut self, record: &StepRecord) -> anyhow::Result<()> {
        let what = format!("committing step {}", record.step);
        self.insist(record.version.generation, &what, |mut coordinator, member| {
            let record = StepRecord { member, ..record.clone() };
            async move { coordinator.commit_step(record).await }
        })
    }

    fn reform(&mut self, generation: Generation, reason: &str) -> anyhow::Result<()> {
        self.insist(generation, "asking for other ranks", |mut coordinator, member| {
            let reason = reason.to_owned();
            async move { coordinator.reform(member, generation, reason).await }
        })
    }
}
