//! The limit on every wait for a peer. What happens after the limit is the caller's decision.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;

use crate::waits::waiting;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} took longer than {limit_ms} ms")]
pub struct DeadlineExceeded {
    pub what: String,
    pub limit_ms: u64,
}

/// Waits for `future` at most `limit`; dropping the future is its cancellation.
pub async fn within<F: Future>(
    what: &str,
    limit: Duration,
    future: F,
) -> Result<F::Output, DeadlineExceeded> {
    let _waits = waiting(what, Some(limit));
    tokio::time::timeout(limit, future).await.map_err(|_| DeadlineExceeded {
        what: what.to_owned(),
        limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_ready_answer_passes_through() {
        let answer = within("the weak span", Duration::from_secs(30), ready(7)).await;
        assert_eq!(answer, Ok(7));
    }

    #[tokio::test]
    async fn a_missing_answer_names_the_wait_and_its_limit() {
        let failure = within("the weak span", Duration::from_millis(5), pending::<()>()).await;
        let failure = failure.expect_err("nothing ever comes");
        assert_eq!(failure, DeadlineExceeded { what: "the weak span".to_owned(), limit_ms: 5 });
        assert_eq!(failure.to_string(), "the weak span took longer than 5 ms");
    }
}
