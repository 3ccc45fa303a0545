//! Clients that speak domain types; every call has a deadline.

mod coordinator;
mod learner;
mod weak;

pub use coordinator::{CoordinatorClient, DirectiveStream};
pub use learner::{LearnerClient, ReceiptStream};
pub use weak::{WeakClient, WeakInbox, WeakOutbox};

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Response, Status};
use tracing::Instrument;

use crate::status::{ErrorCode, RpcError};

/// Awaits one unary call for at most `limit`.
async fn call<T>(
    name: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RpcError> {
    answered(name, limit, future.instrument(trace::calling(name))).await
}

async fn answered<T>(
    name: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RpcError> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(RpcError::new(name, &status)),
        Err(_) => Err(late(name, "answer", limit)),
    }
}

/// Sends a stream of messages and awaits the one answer. Each message has `limit` to be taken, and
/// so has the answer after the last; an answer that comes before ends the sending.
async fn upload<M, T>(
    name: &'static str,
    limit: Duration,
    messages: impl Iterator<Item = M>,
    sender: mpsc::Sender<M>,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RpcError> {
    let mut answer = pin!(answer.instrument(trace::calling(name)));
    for message in messages {
        let taken = tokio::time::timeout(limit, sender.send(message));
        tokio::select! {
            biased;
            early = &mut answer => {
                return answered(name, limit, std::future::ready(early)).await;
            }
            taken = taken => match taken {
                Ok(Ok(())) => {}
                // Nobody takes more: the answer says why.
                Ok(Err(_)) => break,
                Err(_) => return Err(late(name, "progress", limit)),
            },
        }
    }
    drop(sender);
    answered(name, limit, answer).await
}

fn late(call: &'static str, what: &str, limit: Duration) -> RpcError {
    let message = format!("no {what} within {} ms", limit.as_millis());
    RpcError { call, code: ErrorCode::Deadline, message }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const AMPLE: Duration = Duration::from_secs(30);
    const BRIEF: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn an_upload_is_taken_message_by_message_and_answered_after_the_last() {
        let (sender, mut receiver) = mpsc::channel(1);
        let sum = async {
            let mut sum = 0;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            Ok(Response::new(sum))
        };
        assert_eq!(upload("sum", AMPLE, 1..=10, sender, sum).await.unwrap(), 55);
    }

    #[tokio::test]
    async fn an_upload_that_nobody_takes_ends_with_the_limit() {
        let (sender, _receiver) = mpsc::channel(1);
        let stuck = upload("sum", BRIEF, 1..=10, sender, pending::<Result<Response<()>, _>>());
        let error = stuck.await.unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::Deadline, "no progress within 5 ms")
        );
        let (sender, receiver) = mpsc::channel(100);
        let unanswered = upload("sum", BRIEF, 1..=10, sender, pending::<Result<Response<()>, _>>());
        assert_eq!(unanswered.await.unwrap_err().message, "no answer within 5 ms");
        assert_eq!(receiver.len(), 10);
    }

    #[tokio::test]
    async fn a_refusal_ends_the_upload_early() {
        let (sender, _receiver) = mpsc::channel(1);
        let refusal = ready(Err::<Response<()>, _>(Status::invalid_argument("too large")));
        let error = upload("sum", AMPLE, 1.., sender, refusal).await.unwrap_err();
        assert_eq!(error.message, "too large");
    }
}
