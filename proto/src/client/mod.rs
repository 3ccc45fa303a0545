//! Clients that speak domain types; every call has a deadline.

mod coordinator;
mod learner;
mod weak;

pub use coordinator::{CoordinatorClient, DirectiveStream};
pub use learner::{LearnerClient, ReceiptStream};
pub use weak::{WeakClient, WeakInbox, WeakOutbox};

use std::future::Future;
use std::time::Duration;

use tonic::{Response, Status};

use crate::status::{ErrorCode, RpcError};

/// Awaits one unary call for at most `limit`.
async fn call<T>(
    name: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RpcError> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(RpcError::new(name, &status)),
        Err(_) => Err(RpcError {
            call: name,
            code: ErrorCode::Deadline,
            message: format!("no answer within {} ms", limit.as_millis()),
        }),
    }
}
