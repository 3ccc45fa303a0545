//! The wire side of the inbox: one stream per actor, receipts in the order of its groups. A stream
//! is read only as fast as its receipts are taken, so nothing queues here.

use std::pin::Pin;

use anyhow::Context;
use proto::ErrorCode;
use proto::wire::learner as wire;
use proto::wire::learner::learner_server::{Learner, LearnerServer};
use proto::wire::rollout;
use runtime::Shutdown;
use security::Listener;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
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
        listener: Listener,
        message_bytes_max: usize,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let service = LearnerServer::new(self)
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max);
        let (mut server, incoming) = proto::accept(listener);
        let serving = server.add_service(service).serve_with_incoming(incoming);
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
            async move { Ok(answer(&inbox, message.map_err(unreadable)?).await) }
        });
        Ok(Response::new(Box::pin(receipts)))
    }
}

/// A message over the bound ends its stream; everything before it has its receipt.
fn unreadable(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => Status::out_of_range(format!(
            "a group is over limits.message_bytes, raise it for actors and learner or lower \
             train.samples_per_problem: {}",
            status.message()
        )),
        _ => status,
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

    use super::*;
    use crate::fixtures::{Miniature, with_parts};

    fn wire_group(world: &Miniature, group: u64) -> rollout::RolloutGroup {
        world.group(group, 0).into()
    }

    fn inbox(world: &Miniature) -> (Inbox, mpsc::Receiver<crate::inbox::GivenBack>) {
        let (sender, receiver) = mpsc::channel(8);
        let inbox = Inbox::new(world.admission(), None, sender);
        inbox.begin(Miniature::version(0), world.window());
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

    struct Served {
        address: String,
        tasks: runtime::TaskGroup,
        _returns: mpsc::Receiver<crate::inbox::GivenBack>,
    }

    impl Served {
        async fn start(world: &Miniature, message_bytes_max: usize) -> Self {
            let (inbox, _returns) = inbox(world);
            let listener = crate::fixtures::listen().await;
            let address = listener.address();
            let shutdown = Shutdown::new();
            let tasks = runtime::TaskGroup::new(shutdown.clone());
            let serving = Ingest::new(Some(inbox)).serve(listener, message_bytes_max, shutdown);
            tasks.spawn("ingest", serving);
            Self { address: address.to_string(), tasks, _returns }
        }

        /// The receipts of one stream of groups, and why it ended early if it did.
        async fn submit(
            &self,
            groups: Vec<RolloutGroup>,
        ) -> (Vec<(u64, ReceiptCode)>, Option<proto::RpcError>) {
            let settings = ChannelSettings::default();
            let channel = proto::connect(&self.address, &settings).await.unwrap();
            let groups = tokio_stream::iter(groups);
            let mut receipts = LearnerClient::new(channel, &settings).submit(groups).await.unwrap();
            let mut found = Vec::new();
            loop {
                match receipts.next().await {
                    Ok(Some(receipt)) => found.push((receipt.group.0, receipt.code)),
                    Ok(None) => return (found, None),
                    Err(error) => return (found, Some(error)),
                }
            }
        }

        async fn stop(self) {
            self.tasks.shutdown().trigger("the test is over");
            self.tasks.join(std::time::Duration::from_secs(5)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn receipts_come_in_order_over_the_wire() {
        let world = Miniature::small();
        let served = Served::start(&world, 1 << 20).await;
        let (found, error) = served.submit([0, 1, 0].map(|id| world.group(id, 0)).into()).await;
        let (accepted, duplicate) = (ReceiptCode::Accepted, ReceiptCode::Duplicate);
        assert_eq!(found, [(0, accepted), (1, accepted), (0, duplicate)]);
        assert!(error.is_none(), "{error:?}");
        served.stop().await;
    }

    #[tokio::test]
    async fn a_group_over_the_bound_is_refused_by_name_and_the_others_survive_a_new_stream() {
        let world = Miniature::small();
        let served = Served::start(&world, 64 << 10).await;
        let fits = |id| world.group(id, 0);
        let long = with_parts(fits(1), 0, |parts| parts.verdict.text = "so ".repeat(50_000));
        let (found, error) = served.submit(vec![fits(0), long, fits(1)]).await;
        let error = error.expect("the stream ends");
        assert_eq!(error.code, ErrorCode::Invalid, "not worth a repetition");
        assert!(error.message.contains("limits.message_bytes"), "{error}");
        assert!(found.len() <= 1, "{found:?}");
        // Whether the first receipt was read before the end or not, its group was taken.
        let (found, error) = served.submit(vec![fits(0), fits(1)]).await;
        assert_eq!(found, [(0, ReceiptCode::Duplicate), (1, ReceiptCode::Accepted)]);
        assert!(error.is_none(), "{error:?}");
        served.stop().await;
    }
}
