//! Groups in, batches and returns out; the returns also over real gRPC.

use std::time::Instant;

use proto::{ChannelSettings, CoordinatorClient};
use runtime::{Shutdown, TaskGroup, within};
use types::MemberId;

use super::*;
use crate::fixtures::{Miniature, flip_author, with_parts};
use served::ServedCoordinator;

mod served;

const AMPLE: Duration = Duration::from_secs(60);

fn inbox(world: &Miniature) -> (Inbox, mpsc::Receiver<GivenBack>) {
    let (sender, receiver) = mpsc::channel(8);
    let inbox = Inbox::new(world.admission(), None, sender);
    inbox.begin(Miniature::version(0), world.window());
    (inbox, receiver)
}

fn health() -> Health {
    Health::of_progress(AMPLE)
}

#[tokio::test]
async fn a_step_is_handed_out_when_its_last_group_comes() {
    let world = Miniature::small();
    let (inbox, _returns) = inbox(&world);
    for group in [1, 0] {
        let receipt = inbox.receive(world.group(group, 0)).await;
        assert_eq!((receipt.code, &*receipt.reason), (ReceiptCode::Accepted, ""));
    }
    let again = inbox.receive(world.group(1, 0)).await;
    assert_eq!(again.code, ReceiptCode::Duplicate);
    let batch = inbox.next_batch(&health()).await;
    assert_eq!(batch.iter().map(|g| g.group.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(inbox.receive(world.group(0, 0)).await.code, ReceiptCode::Duplicate);
    assert_eq!(inbox.take_counts(), Counts { stale: 0, duplicates: 2, replaced: 0 });
    assert_eq!(inbox.take_counts(), Counts::default());
}

/// All samples of a group earn nothing.
fn hopeless(group: RolloutGroup) -> RolloutGroup {
    let samples = group.samples.len();
    (0..samples)
        .fold(group, |group, sample| with_parts(group, sample, |parts| parts.verdict.reward = 0.0))
}

#[tokio::test]
async fn a_group_that_teaches_nothing_is_replaced_once() {
    let world = Miniature::with(|s| s.train.refill = true);
    let (sender, mut returns) = mpsc::channel(8);
    let refill = Refill::new(&world.settings);
    let inbox = Inbox::new(world.admission(), refill, sender);
    inbox.begin(Miniature::version(0), world.window());
    let receipt = inbox.receive(hopeless(world.group(0, 0))).await;
    assert_eq!(receipt.code, ReceiptCode::Replaced);
    let given = returns.try_recv().unwrap();
    let expected = (GroupId(0), Epoch(1), ReturnReason::Replaced);
    assert_eq!((given.group, given.epoch, given.reason), expected);
    // A late copy under the same epoch is none that is waited for, whatever it would teach.
    assert_eq!(inbox.receive(world.group(0, 0)).await.code, ReceiptCode::Duplicate);

    let replacement = world.group_drawn_as(GroupId(0), GroupId(0).replacement(), 0);
    let replacement = RolloutGroup { epoch: Epoch(2), ..hopeless(replacement) };
    assert_eq!(inbox.receive(replacement).await.code, ReceiptCode::Accepted);
    assert_eq!(inbox.receive(world.group(1, 0)).await.code, ReceiptCode::Accepted);
    let batch = inbox.next_batch(&health()).await;
    let names = |group: &RolloutGroup| (group.group, group.key_group);
    let [own, other] = [GroupId(0), GroupId(1)];
    assert_eq!([names(&batch[0]), names(&batch[1])], [(own, own.replacement()), (other, other)]);
    assert!(returns.try_recv().is_err());
    assert_eq!(inbox.take_counts(), Counts { stale: 0, duplicates: 1, replaced: 1 });
}

#[tokio::test]
async fn a_refused_group_is_given_back() {
    let world = Miniature::small();
    let (inbox, mut returns) = inbox(&world);
    let forged = flip_author(world.group(0, 0));
    let receipt = inbox.receive(forged).await;
    assert_eq!(receipt.code, ReceiptCode::Refused);
    assert!(receipt.reason.contains("the schedule gives it to"), "{}", receipt.reason);
    let given = returns.try_recv().unwrap();
    assert_eq!((given.group, given.reason), (GroupId(0), ReturnReason::Refused));
    // The honest copy is still welcome.
    assert_eq!(inbox.receive(world.group(0, 0)).await.code, ReceiptCode::Accepted);
    let ahead = inbox.receive(world.group(99, 0)).await;
    assert!(ahead.reason.contains("not open yet"), "{}", ahead.reason);
}

#[tokio::test]
async fn nothing_is_taken_while_the_ranks_form_and_what_was_taken_before_is_dropped() {
    let world = Miniature::small();
    let (sender, mut returns) = mpsc::channel(8);
    let inbox = Inbox::new(world.admission(), None, sender);
    let early = inbox.receive(world.group(0, 0)).await;
    assert_eq!((early.code, early.generation), (ReceiptCode::Refused, Generation(0)));
    assert!(early.reason.contains("ranks are not all there"), "{}", early.reason);
    assert_eq!(returns.try_recv().unwrap().group, GroupId(0));

    inbox.begin(Miniature::version(0), world.window());
    let taken = inbox.receive(world.group(0, 0)).await;
    assert_eq!((taken.code, taken.generation), (ReceiptCode::Accepted, Generation(1)));
    inbox.suspend();
    let late = inbox.receive(world.group(1, 0)).await;
    assert_eq!((late.code, late.generation), (ReceiptCode::Refused, Generation(1)));
    assert_eq!(returns.try_recv().unwrap().group, GroupId(1));

    inbox.begin(PolicyVersion::new(2, 0), world.window());
    // The same copy is news to the new ranks.
    let again = inbox.receive(world.group(0, 0)).await;
    assert_eq!((again.code, again.generation), (ReceiptCode::Accepted, Generation(2)));
}

#[tokio::test]
async fn a_stale_group_is_given_back_and_its_redeal_completes_the_step() {
    let world = Miniature::small();
    let (sender, mut returns) = mpsc::channel(8);
    let inbox = Inbox::new(world.admission(), None, sender);
    inbox.begin(Miniature::version(2), world.window());
    // Step 2 is groups 4 and 5; weights of step 0 are two behind it.
    for (group, step) in [(4, 0), (5, 2)] {
        let receipt = inbox.receive(world.group(group, step)).await;
        assert_eq!(receipt.code, ReceiptCode::Accepted, "{}", receipt.reason);
    }
    // The lease had run out; the copy of the second one says under which epoch it is out now.
    let copy = RolloutGroup { epoch: Epoch(2), ..world.group(4, 2) };
    assert_eq!(inbox.receive(copy).await.code, ReceiptCode::Duplicate);
    let health = health();
    let redealt = async {
        let given = returns.recv().await.unwrap();
        let expected = GivenBack {
            group: GroupId(4),
            epoch: Epoch(2),
            purpose: Purpose::Train,
            reason: ReturnReason::Stale,
            detail: "its oldest weights are of step 0, too old for step 2".to_owned(),
        };
        assert_eq!(given, expected);
        let redealt = RolloutGroup { epoch: Epoch(3), ..world.group(4, 2) };
        assert_eq!(inbox.receive(redealt).await.code, ReceiptCode::Accepted);
    };
    let both = async { tokio::join!(inbox.next_batch(&health), redealt).0 };
    let batch = within("the batch", AMPLE, both).await.unwrap();
    let found: Vec<_> = batch.iter().map(|g| (g.group.0, g.epoch.0)).collect();
    assert_eq!(found, [(4, 3), (5, 1)]);
    assert_eq!(inbox.take_counts(), Counts { stale: 1, duplicates: 1, replaced: 0 });
    assert!(returns.try_recv().is_err(), "given back once");
}

#[tokio::test]
async fn a_wait_for_groups_is_progress_as_long_as_it_looks_around() {
    let world = Miniature::small();
    let (inbox, _returns) = inbox(&world);
    let health = Health::of_progress(Duration::ZERO);
    let beat_since = |moment: Instant| health.check(moment).is_ok();
    let looks = async {
        for _ in 0..2 {
            let moment = Instant::now();
            while !beat_since(moment) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let waited = async {
        tokio::select! {
            batch = inbox.next_batch(&health) => panic!("a batch of {} groups", batch.len()),
            () = looks => {}
        }
    };
    within("two beats", AMPLE, waited).await.unwrap();
}

#[tokio::test]
async fn what_is_given_back_reaches_the_coordinator_in_order() {
    let tasks = TaskGroup::new(Shutdown::new());
    // The first call fails and is repeated.
    let (served, address) = ServedCoordinator::start(1, &tasks).await;
    let settings = ChannelSettings::default();
    let channel = proto::connect(&address, &settings).await.unwrap();
    let (sender, queue) = mpsc::channel(8);
    let given = |group: u64, reason| GivenBack {
        group: GroupId(group),
        epoch: Epoch(3),
        purpose: Purpose::Train,
        reason,
        detail: format!("why {group}"),
    };
    sender.send(given(5, ReturnReason::Stale)).await.unwrap();
    sender.send(given(2, ReturnReason::Refused)).await.unwrap();
    drop(sender);
    let coordinator = CoordinatorClient::new(channel, &settings);
    let tie = Tie { coordinator, member: MemberId(7), patience: AMPLE };
    let returning = return_groups(queue, tie);
    within("the returns", AMPLE, returning).await.unwrap().unwrap();
    let returned = |group: u64, reason| ReturnedGroup {
        member: MemberId(7),
        group: GroupId(group),
        epoch: Epoch(3),
        purpose: Purpose::Train,
        reason,
        detail: format!("why {group}"),
    };
    let expected = [returned(5, ReturnReason::Stale), returned(2, ReturnReason::Refused)];
    assert_eq!(served.returned(), expected);
    tasks.shutdown().trigger("the test is over");
    tasks.join(AMPLE).await.unwrap();
}
