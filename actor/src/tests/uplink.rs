//! The uplink against a learner that breaks off before it has answered.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::wire::learner as wire;
use proto::wire::learner::learner_server::{Learner, LearnerServer};
use proto::{ChannelSettings, Completion, Directive, Formation, Rank, Receipt, ReceiptCode};
use runtime::{Shutdown, TaskGroup, within};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use types::Generation;

use super::*;
use crate::{Report, Uplink};

/// Breaks off after the second group of its first stream.
#[derive(Clone, Default)]
struct FakeLearner {
    /// Lets nobody in.
    shut: bool,
    streams: Arc<Mutex<u32>>,
    received: Arc<Mutex<Vec<GroupId>>>,
}

#[tonic::async_trait]
impl Learner for FakeLearner {
    type SubmitStream = Pin<Box<dyn Stream<Item = Result<wire::Receipt, Status>> + Send>>;

    async fn submit(
        &self,
        request: Request<Streaming<proto::wire::rollout::RolloutGroup>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        if self.shut {
            return Err(Status::unauthenticated("scripted"));
        }
        let stream = {
            let mut streams = self.streams.lock().unwrap();
            *streams += 1;
            *streams
        };
        let (received, mut count) = (Arc::clone(&self.received), 0);
        let receipts = request.into_inner().map(move |message| {
            let group = RolloutGroup::try_from(message?).unwrap();
            received.lock().unwrap().push(group.group);
            count += 1;
            if stream == 1 && count == 2 {
                return Err(Status::unavailable("scripted"));
            }
            let (group, epoch) = (group.group, group.epoch);
            let code = match group.0 {
                73 => ReceiptCode::Refused,
                _ => ReceiptCode::Accepted,
            };
            let (reason, generation) = (String::new(), Generation(4));
            Ok(Receipt { group, epoch, code, reason, generation }.into())
        });
        Ok(Response::new(Box::pin(receipts)))
    }
}

/// Serves as rank 1.
async fn serve(learner: FakeLearner, tasks: &TaskGroup) -> Directive {
    let listener = super::listen().await;
    let address = listener.address().to_string();
    let (service, stop) = (LearnerServer::new(learner), tasks.shutdown().wait());
    tasks.spawn("learner", async move {
        let (mut server, incoming) = proto::accept(listener);
        let server = server.add_service(service);
        tokio::select! {
            () = stop => Ok(()),
            ended = server.serve_with_incoming(incoming) => Ok(ended?),
        }
    });
    let other = Rank { address: "127.0.0.1:1".to_owned(), ring_address: String::new() };
    let ranks = vec![other.clone(), Rank { address, ..other }];
    let formation = Formation { generation: Generation(4), committed: 0, run: 1, ranks };
    Directive { formation: Some(formation), ..Directive::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_the_learner_does_not_let_in_ends_and_says_so() {
    let tasks = TaskGroup::new(Shutdown::new());
    let learner = FakeLearner { shut: true, ..FakeLearner::default() };
    let (_directing, directives) = watch::channel(serve(learner, &tasks).await);
    let (sender, groups) = mpsc::channel(1);
    let ((completed, _completions), (reports, _failed)) = (mpsc::channel(1), mpsc::channel(1));
    let channel = ChannelSettings::default();
    let uplink = Uplink { rank: 1, channel, directives, groups, completed, reports, groups_max: 1 };
    sender.send(weak_alone(70, 2)).await.unwrap();
    let ended = within("its end", Duration::from_secs(60), uplink.run(Shutdown::new())).await;
    let error = format!("{:#}", ended.unwrap().unwrap_err());
    assert!(error.starts_with("learner-1 refuses this actor"), "{error}");
    tasks.shutdown().trigger("the test is over");
    tasks.join(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_without_receipt_are_sent_again_and_each_lease_completes_once() {
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new(shutdown.clone());
    let learner = FakeLearner::default();
    let (_directing, directives) = watch::channel(serve(learner.clone(), &tasks).await);
    let (sender, groups) = mpsc::channel(8);
    let (completed, mut completions) = mpsc::channel(8);
    let channel = ChannelSettings::default();
    let (reports, mut failed) = mpsc::channel(8);
    // One group is larger than any message may be.
    let bytes = (70..76).map(|number| proto::group_bytes(&weak_alone(number, 2))).max();
    let channel = ChannelSettings { message_bytes_max: bytes.unwrap(), ..channel };
    let uplink = Uplink { rank: 1, channel, directives, groups, completed, reports, groups_max: 4 };
    tasks.spawn("uplink", uplink.run(shutdown.clone()));

    let mut done = Vec::new();
    sender.send(weak_alone(69, 8)).await.unwrap();
    for number in 70..76 {
        if number == 74 {
            sender.send(weak_alone(99, 8)).await.unwrap();
        }
        sender.send(weak_alone(number, 2)).await.unwrap();
    }
    while done.len() < 5 {
        let done_one = within("a receipt", Duration::from_secs(120), completions.recv()).await;
        let Completion { lease, generation } = done_one.unwrap().unwrap();
        assert_eq!(generation, Generation(4));
        done.push(lease.0);
    }
    done.sort_unstable();
    // The lease of the refused group is not this actor's to complete.
    assert_eq!(done, [170, 171, 172, 174, 175]);
    shutdown.trigger("all is delivered");
    tasks.join(Duration::from_secs(120)).await.unwrap();
    // The first on no line yet, the other on an open one: both go back with the way out.
    for number in [69, 99] {
        let Report::Failed(group) = failed.try_recv().unwrap() else { panic!("not given up") };
        assert_eq!(group.group, GroupId(number));
        let way_out = format!("limits.message_bytes = {}: raise it", bytes.unwrap());
        assert!(group.detail.contains(&way_out), "{}", group.detail);
    }
    assert!(completions.try_recv().is_err());
    assert_eq!(*learner.streams.lock().unwrap(), 2);
    let received = learner.received.lock().unwrap().clone();
    assert!((70..76).all(|number| received.contains(&GroupId(number))), "{received:?}");
    assert!(received.iter().filter(|group| group.0 == 71).count() == 2, "{received:?}");
}
