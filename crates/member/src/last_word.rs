//! What a member tells its coordinator when it ends: that it does, and how. One that is killed says
//! nothing and is missed after a while.

use std::sync::OnceLock;
use std::time::Duration;

use proto::Departure;
use runtime::within;

use crate::Membership;

/// A coordinator that is gone must not hold the end up.
const LIMIT: Duration = Duration::from_secs(1);

/// A number that is not finite ends a member's work; the text says what to do about it. As the
/// context of an error it is what the coordinator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFinite(pub &'static str);

/// To whom it is said, and what.
pub(crate) struct LastWord<'a> {
    membership: Option<&'a Membership>,
    how: Departure,
}

impl<'a> LastWord<'a> {
    /// Nothing is said by a process that never joined, nor where the coordinator has said it.
    pub(crate) fn of(
        membership: &'a OnceLock<Membership>,
        outcome: &anyhow::Result<()>,
    ) -> LastWord<'a> {
        let told = |membership: &&Membership| membership.directives.borrow().stop;
        let membership = membership.get().filter(|membership| !told(membership));
        LastWord { membership, how: how(outcome) }
    }

    pub(crate) async fn say(self) {
        let Some(Membership { tie, .. }) = self.membership else { return };
        let mut coordinator = tie.coordinator.clone();
        let leaving = coordinator.leave(tie.member, self.how);
        match within("the coordinator to hear of the end", LIMIT, leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the coordinator is not told of the end"),
            Err(late) => tracing::debug!(%late, "the coordinator is not told of the end"),
        }
    }
}

fn how(outcome: &anyhow::Result<()>) -> Departure {
    match outcome {
        Ok(()) => Departure::Ordered,
        Err(error) if error.is::<NotFinite>() => Departure::NotFinite,
        Err(_) => Departure::Failed,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_cause_is_found_under_whatever_was_said_of_it() {
        let lost = Err::<(), _>(anyhow!("NaN")).context(NotFinite("training has diverged"));
        let lost = lost.context("step 3 failed").context("task train failed");
        assert_eq!(how(&lost), Departure::NotFinite);
        let text = format!("{:#}", lost.unwrap_err());
        assert_eq!(text, "task train failed: step 3 failed: training has diverged: NaN");
        assert_eq!(how(&Err(anyhow!("training has diverged"))), Departure::Failed);
        assert_eq!(how(&Ok(())), Departure::Ordered);
    }
}
