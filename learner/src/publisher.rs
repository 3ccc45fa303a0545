//! The training thread's line to the coordinator: policy versions and committed steps. What they
//! contain is decided by the training loop.

use std::time::Duration;

use anyhow::anyhow;
use proto::{CoordinatorClient, RpcError, StepRecord};
use runtime::{Attempt, RetryPolicy, Shutdown, retry};
use tokio::runtime::Handle;
use types::{Generation, MemberId, WeightManifest};

/// A version or a commit that is under way when the stop comes is given so long.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Where policy versions and committed steps go, in order. Calls block.
pub trait Outlet: Send {
    /// # Errors
    /// The version did not arrive.
    fn publish(&mut self, manifest: &WeightManifest, bytes: &[u8]) -> anyhow::Result<()>;

    /// # Errors
    /// The step is not known to be committed.
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
    coordinator: CoordinatorClient,
    member: MemberId,
    shutdown: Shutdown,
}

impl CoordinatorOutlet {
    #[must_use]
    pub fn new(
        runtime: Handle,
        coordinator: CoordinatorClient,
        member: MemberId,
        shutdown: Shutdown,
    ) -> Self {
        Self { runtime, coordinator, member, shutdown }
    }

    /// Repeats `call` while its error may pass; a stop ends that soon.
    fn insist<F, Call>(&self, what: &str, call: Call) -> anyhow::Result<()>
    where
        F: Future<Output = Result<(), RpcError>>,
        Call: Fn(CoordinatorClient) -> F,
    {
        let tried = retry(RetryPolicy::default(), what, || {
            let outcome = call(self.coordinator.clone());
            async move {
                outcome.await.map_err(|error| match error.code.retryable() {
                    true => Attempt::Again(error),
                    false => Attempt::Stop(error),
                })
            }
        });
        let stop = self.shutdown.wait();
        self.runtime.block_on(async {
            tokio::select! {
                outcome = tried => Ok(outcome?),
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
        self.insist(&what, |mut coordinator| {
            let manifest = manifest.clone();
            async move { coordinator.publish_weights(manifest, bytes).await }
        })
    }

    fn commit(&mut self, record: &StepRecord) -> anyhow::Result<()> {
        let record = StepRecord { member: self.member, ..record.clone() };
        self.insist(&format!("committing step {}", record.step), |mut coordinator| {
            let record = record.clone();
            async move { coordinator.commit_step(record).await }
        })
    }

    fn reform(&mut self, generation: Generation, reason: &str) -> anyhow::Result<()> {
        let member = self.member;
        self.insist("asking for other ranks", |mut coordinator| {
            let reason = reason.to_owned();
            async move { coordinator.reform(member, generation, reason).await }
        })
    }
}
