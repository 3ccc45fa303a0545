//! Reports to a coordinator that refuses some of them.

use std::time::Duration;

use member::Tie;
use proto::{ErrorCode, ReturnReason};
use runtime::{Shutdown, TaskGroup, within};
use tokio::sync::mpsc;
use types::{Epoch, MemberId};

use super::coordinator::ServedCoordinator;
use super::*;
use crate::{FailedGroup, Report, Reporter};

const AMPLE: Duration = Duration::from_secs(60);

/// Reports one after the other; how the reporter ended.
async fn report(
    served: &ServedCoordinator,
    all: Vec<Report>,
    message_bytes_max: usize,
) -> anyhow::Result<()> {
    let tasks = TaskGroup::new(Shutdown::new());
    let coordinator = served.start(&tasks).await;
    let (sender, reports) = mpsc::channel(16);
    // Two tries.
    let patience = Duration::from_millis(1);
    let tie = Tie { coordinator, member: MemberId(1), patience };
    let reporter = Reporter { tie, reports, message_bytes_max };
    let feeding = async move {
        for report in all {
            // It may have ended with an error.
            let _ = sender.send(report).await;
        }
    };
    let ((), outcome) = within("the reports", AMPLE, async {
        tokio::join!(feeding, reporter.run(Shutdown::new()))
    })
    .await
    .unwrap();
    tasks.shutdown().trigger("the test is over");
    tasks.join(AMPLE).await.unwrap();
    outcome
}

fn evaluated(number: u64) -> Report {
    Report::Evaluated(weak_alone(number, 1))
}

fn given_up(number: u64) -> Report {
    let (epoch, purpose, detail) = (Epoch(1), Purpose::Train, "gone".to_owned());
    let (group, reason) = (GroupId(number), ReturnReason::Failed);
    Report::Failed(FailedGroup { group, epoch, purpose, reason, detail })
}

#[tokio::test]
async fn a_refused_report_costs_the_report_and_not_the_actor() {
    let served = ServedCoordinator::default();
    served.refuse(&[ErrorCode::Invalid, ErrorCode::Unavailable, ErrorCode::Internal]);
    let all = vec![given_up(1), evaluated(2), given_up(3), evaluated(4)];
    report(&served, all, 1 << 20).await.unwrap();
    let returned: Vec<u64> = served.returned().iter().map(|(group, _)| group.0).collect();
    let mut evaluated = served.evaluated();
    let again = evaluated.iter().flatten().count() + returned.len();
    assert_eq!(again, 5, "only the report that found nobody is repeated");
    evaluated.sort();
    evaluated.dedup();
    assert_eq!(evaluated.concat(), [GroupId(2), GroupId(4)]);
    assert!(returned.contains(&1) && returned.contains(&3), "{returned:?}");
}

#[tokio::test]
async fn an_actor_that_is_not_known_waits_to_be_and_ends_only_after_that() {
    let served = ServedCoordinator::default();
    served.refuse(&[ErrorCode::UnknownMember]);
    report(&served, vec![evaluated(2)], 1 << 20).await.unwrap();
    assert_eq!(served.evaluated().concat(), [GroupId(2), GroupId(2)], "it is told again");

    let served = ServedCoordinator::default();
    served.refuse(&[ErrorCode::UnknownMember; 2]);
    let error = report(&served, vec![evaluated(2)], 1 << 20).await.unwrap_err();
    assert!(error.to_string().contains("scripted"), "{error}");
}

#[tokio::test]
async fn an_evaluation_that_fits_into_no_message_is_given_back() {
    let served = ServedCoordinator::default();
    let bytes = proto::group_bytes(&weak_alone(2, 1)) + 32;
    let large = Report::Evaluated(weak_alone(3, 8));
    report(&served, vec![evaluated(2), large], bytes).await.unwrap();
    assert_eq!(served.evaluated().concat(), [GroupId(2)]);
    let [(group, detail)] = &served.returned()[..] else { panic!("{:?}", served.returned()) };
    assert_eq!(*group, GroupId(3));
    assert!(detail.contains("limits.message_bytes"), "{detail}");
}
