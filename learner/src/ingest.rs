//! The wire side of the inbox: one stream per actor, receipts in the order of its groups. A stream
//! is read only as fast as its receipts are taken, so nothing queues here.

use std::pin::Pin;

use anyhow::Context;
use proto::ErrorCode;
use proto::wire::learner as wire;
use proto::wire::learner::learner_server::{Learner, LearnerServer};
use proto::wire::rollout;
use runtime::Shutdown;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::{Epoch, GroupId, Purpose, RolloutGroup};

use crate::inbox::Inbox;

type Receipts = Pin<Box<dyn Stream<Item = Result<wire::Receipt, Status>> + Send>>;

/// The service that actors deliver to.
#[derive(Clone)]
pub struct Ingest {
    inbox: Option<Inbox>,
}

impl Ingest {
    /// Without an inbox every stream is refused.
    #[must_use]
    pub fn new(inbox: Option<Inbox>) -> Self {
        Self { inbox }
    }

    /// Serves until the shutdown; streams that are open then are cut.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        message_bytes_max: usize,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let service = LearnerServer::new(self)
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max);
        let serving = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::select! {
            outcome = serving => outcome.context("the learner's service ended"),
            () = shutdown.wait() => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Learner for Ingest {
    type SubmitStream = Receipts;

    async fn submit(
        &self,
        request: Request<Streaming<rollout::RolloutGroup>>,
    ) -> Result<Response<Receipts>, Status> {
        let inbox = self.inbox.clone().ok_or_else(|| {
            ErrorCode::Invalid.status("this learner trains on worked examples, not on rollouts")
        })?;
        let receipts = request.into_inner().then(move |message| {
            let inbox = inbox.clone();
            async move { Ok(answer(&inbox, message?).await) }
        });
        Ok(Response::new(Box::pin(receipts)))
    }
}

/// A group that does not convert, for instance for want of its author column, is refused like one
/// that converts and is wrong; only a message without a purpose cannot even be given back.
async fn answer(inbox: &Inbox, message: rollout::RolloutGroup) -> wire::Receipt {
    let (group, epoch) = (GroupId(message.group), Epoch(message.epoch));
    let purpose = match message.purpose() {
        rollout::Purpose::Eval => Purpose::Eval,
        _ => Purpose::Train,
    };
    let receipt = match RolloutGroup::try_from(message) {
        Ok(group) => inbox.receive(group).await,
        Err(error) => {
            let detail = format!("{}: {error}", ErrorCode::Invalid.name());
            inbox.refuse(group, epoch, purpose, detail).await
        }
    };
    receipt.into()
}

#[cfg(test)]
mod tests {
    use proto::{ChannelSettings, LearnerClient, ReceiptCode};
    use tokio::sync::mpsc;
    use types::PolicyVersion;

    use super::*;
    use crate::fixtures::Miniature;

    fn wire_group(world: &Miniature, group: u64) -> rollout::RolloutGroup {
        world.group(group, 0).into()
    }

    fn inbox(world: &Miniature) -> (Inbox, mpsc::Receiver<crate::inbox::GivenBack>) {
        let (sender, receiver) = mpsc::channel(8);
        let inbox = Inbox::new(world.admission(), world.assembler(0), sender);
        inbox.announce(PolicyVersion::new(1, 0));
        (inbox, receiver)
    }

    #[tokio::test]
    async fn a_dropped_or_shifted_author_column_is_refused() {
        let world = Miniature::small();
        let (inbox, mut returns) = inbox(&world);
        let mut dropped = wire_group(&world, 0);
        dropped.samples[1].authors.clear();
        let mut shifted = wire_group(&world, 1);
        shifted.samples[0].authors.rotate_right(1);
        let mut short = wire_group(&world, 1);
        short.samples[0].authors.pop();
        for message in [dropped, shifted, short] {
            let group = message.group;
            let receipt = answer(&inbox, message).await;
            assert_eq!(receipt.code(), wire::ReceiptCode::Refused);
            assert!(receipt.reason.contains("invalid"), "{}", receipt.reason);
            assert_eq!(returns.try_recv().unwrap().group, GroupId(group));
        }
        let honest = answer(&inbox, wire_group(&world, 0)).await;
        assert_eq!(honest.code(), wire::ReceiptCode::Accepted);
    }

    #[tokio::test]
    async fn receipts_come_in_order_over_the_wire() {
        let world = Miniature::small();
        let (inbox, _returns) = inbox(&world);
        let (listener, address) = member::bind("127.0.0.1:0").await.unwrap();
        let (shutdown, tasks) = {
            let shutdown = Shutdown::new();
            (shutdown.clone(), runtime::TaskGroup::new(shutdown))
        };
        tasks.spawn("ingest", Ingest::new(Some(inbox)).serve(listener, 1 << 20, shutdown.clone()));
        let settings = ChannelSettings::default();
        let channel = proto::connect(&address.to_string(), &settings).await.unwrap();
        let groups = [0, 1, 0].map(|group| world.group(group, 0));
        let groups = tokio_stream::iter(groups);
        let mut receipts = LearnerClient::new(channel, &settings).submit(groups).await.unwrap();
        let mut found = Vec::new();
        while let Some(receipt) = receipts.next().await.unwrap() {
            found.push((receipt.group.0, receipt.code));
        }
        let (accepted, duplicate) = (ReceiptCode::Accepted, ReceiptCode::Duplicate);
        assert_eq!(found, [(0, accepted), (1, accepted), (0, duplicate)]);
        shutdown.trigger("the test is over");
        tasks.join(std::time::Duration::from_secs(5)).await.unwrap();
    }
}
