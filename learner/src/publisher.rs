//! The training thread's line to the coordinator: policy versions and committed steps. What they
//! contain is decided by the training loop.

use std::time::Duration;

use anyhow::anyhow;
use member::Tie;
use proto::{CoordinatorClient, ErrorCode, RpcError, StepRecord};
use runtime::Shutdown;
use tokio::runtime::Handle;
use types::{Generation, MemberId, WeightManifest};

use crate::collective::Lost;

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
}

impl CoordinatorOutlet {
    #[must_use]
    pub fn new(runtime: Handle, tie: Tie, shutdown: Shutdown) -> Self {
        Self { runtime, tie, shutdown }
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
        self.insist(manifest.version.generation, &what, |mut coordinator, _| {
            let manifest = manifest.clone();
            async move { coordinator.publish_weights(manifest, bytes).await }
        })
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
