//! The training thread's line to the coordinator: policy versions and committed steps. What they
//! contain is decided by the training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use member::Tie;
use proto::{CoordinatorClient, ErrorCode, RpcError, StepRecord, WeightFiles};
use runtime::Shutdown;
use settings::{Checkpoint, Settings};
use tokio::runtime::Handle;
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
    shared: Option<SharedDisk>,
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
    pub fn new(runtime: Handle, tie: Tie, shutdown: Shutdown, shared: Option<SharedDisk>) -> Self {
        Self { runtime, tie, shutdown, shared }
    }

    /// Whether the version lies in a file now.
    fn offered(&self, manifest: &WeightManifest, bytes: &[u8]) -> bool {
        let offered = self.shared.as_ref().map(|shared| shared.offer(manifest, bytes));
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
        if let Some(shared) = &self.shared
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
