//! A member's calls to its coordinator. They outlive its absence: it may be gone for a while, and
//! another that goes on with the run knows this process only once it has registered again.

use std::time::Duration;

use proto::{CoordinatorClient, ErrorCode, RpcError};
use runtime::{Attempt, GaveUp, RetryPolicy, retry};
use types::MemberId;

/// Clones are the same tie.
#[derive(Clone, Debug)]
pub struct Tie {
    pub coordinator: CoordinatorClient,
    pub member: MemberId,
    /// For how long a coordinator that is gone is waited for: `coordinator.return_timeout_ms`.
    pub patience: Duration,
}

impl Tie {
    /// Repeats a call while its error may pass. Whoever follows the directives registers again
    /// meanwhile.
    ///
    /// # Errors
    /// A refusal, or the last failure once the patience is over.
    pub async fn insist<T, F>(
        &self,
        what: &str,
        call: impl Fn(CoordinatorClient, MemberId) -> F,
    ) -> Result<T, GaveUp<RpcError>>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        retry(RetryPolicy::lasting(self.patience), what, || {
            let outcome = call(self.coordinator.clone(), self.member);
            async move {
                outcome.await.map_err(|error| match may_pass(error.code) {
                    true => Attempt::Again(error),
                    false => Attempt::Stop(error),
                })
            }
        })
        .await
    }
}

/// Whether another try may succeed: the coordinator is gone, or does not know this process yet.
#[must_use]
pub fn may_pass(code: ErrorCode) -> bool {
    code.retryable() || code == ErrorCode::UnknownMember
}
