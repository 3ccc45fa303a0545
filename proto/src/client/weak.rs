//! An actor's side of the weak server: one stream that carries all its sessions.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::call;
use crate::channel::{ChannelSettings, Line};
use crate::span::{SpanReply, WeakMessage};
use crate::status::{ErrorCode, RpcError};
use crate::wire::weak as wire;
use crate::wire::weak::weak_client::WeakClient as Stub;

#[derive(Clone, Debug)]
pub struct WeakClient {
    stub: Stub<Line>,
    timeout: Duration,
}

/// Where an actor puts its messages; bounded.
#[derive(Clone, Debug)]
pub struct WeakOutbox(mpsc::Sender<WeakMessage>);

impl WeakOutbox {
    /// Waits for room.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn send(&self, message: WeakMessage) -> Result<(), RpcError> {
        self.0.send(message).await.map_err(|_| gone())
    }
}

fn gone() -> RpcError {
    let message = "the stream to the weak server is closed".to_owned();
    RpcError { call: "converse", code: ErrorCode::Unavailable, message }
}

/// Replies, several at a time.
#[derive(Debug)]
pub struct WeakInbox(Streaming<wire::Reply>);

impl WeakInbox {
    /// `None` when the server closes the stream.
    ///
    /// # Errors
    /// A broken connection or a malformed reply.
    pub async fn next(&mut self) -> Result<Option<Vec<SpanReply>>, RpcError> {
        let message = self.0.message().await.map_err(|s| RpcError::new("converse", &s))?;
        let Some(reply) = message else { return Ok(None) };
        let replies = reply.replies.into_iter().map(SpanReply::try_from);
        let replies = replies.collect::<Result<_, _>>();
        replies.map(Some).map_err(|e| RpcError::invalid("converse", e))
    }
}

impl WeakClient {
    #[must_use]
    pub fn new(channel: Line, settings: &ChannelSettings) -> Self {
        let stub = Stub::new(channel)
            .max_decoding_message_size(settings.message_bytes_max)
            .max_encoding_message_size(settings.message_bytes_max);
        Self { stub, timeout: settings.call_timeout }
    }

    /// Opens the stream with `hello`; at most `outbox_messages` wait to be sent.
    ///
    /// # Errors
    /// The server is not reachable or refuses the hello.
    pub async fn converse(
        &mut self,
        hello: WeakMessage,
        outbox_messages: usize,
    ) -> Result<(WeakOutbox, WeakInbox), RpcError> {
        let (sender, receiver) = mpsc::channel(outbox_messages.max(1));
        sender.try_send(hello).map_err(|_| gone())?;
        let requests = ReceiverStream::new(receiver).map(wire::Request::from);
        let replies = call("converse", self.timeout, self.stub.converse(requests)).await?;
        Ok((WeakOutbox(sender), WeakInbox(replies)))
    }
}
