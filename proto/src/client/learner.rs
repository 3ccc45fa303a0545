//! An actor's side of the learner: a stream of groups out, receipts back.

use std::time::Duration;

use tokio_stream::Stream;
use tonic::Streaming;
use types::RolloutGroup;

use super::call;
use crate::channel::{ChannelSettings, Line};
use crate::status::RpcError;
use crate::wire::learner as wire;
use crate::wire::learner::learner_client::LearnerClient as Stub;
use crate::work::Receipt;

#[derive(Clone, Debug)]
pub struct LearnerClient {
    stub: Stub<Line>,
    timeout: Duration,
}

/// Receipts in the order of the groups sent.
#[derive(Debug)]
pub struct ReceiptStream(Streaming<wire::Receipt>);

impl ReceiptStream {
    /// `None` when the learner closes the stream.
    ///
    /// # Errors
    /// A broken connection or a malformed receipt.
    pub async fn next(&mut self) -> Result<Option<Receipt>, RpcError> {
        let message = self.0.message().await.map_err(|s| RpcError::new("submit", &s))?;
        let receipt = message.map(Receipt::try_from).transpose();
        receipt.map_err(|e| RpcError::invalid("submit", e))
    }
}

impl LearnerClient {
    #[must_use]
    pub fn new(channel: Line, settings: &ChannelSettings) -> Self {
        let stub = Stub::new(channel)
            .max_decoding_message_size(settings.message_bytes_max)
            .max_encoding_message_size(settings.message_bytes_max);
        Self { stub, timeout: settings.call_timeout }
    }

    /// Sends `groups` as they come.
    ///
    /// # Errors
    /// The learner is not reachable or refuses the stream.
    pub async fn submit(
        &mut self,
        groups: impl Stream<Item = RolloutGroup> + Send + 'static,
    ) -> Result<ReceiptStream, RpcError> {
        let wire = tokio_stream::StreamExt::map(groups, Into::into);
        call("submit", self.timeout, self.stub.submit(wire)).await.map(ReceiptStream)
    }
}
