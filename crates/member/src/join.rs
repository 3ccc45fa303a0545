//! Joining the coordinator and following its directives.

use std::time::Duration;

use anyhow::{Context, bail};
use proto::{ChannelSettings, CoordinatorClient, Directive, DirectiveStream, Registration};
use runtime::{Attempt, RetryPolicy, Shutdown, retry, within};
use tokio::sync::watch;
use types::MemberId;

use crate::Process;

/// A member's tie to its coordinator.
#[derive(Clone, Debug)]
pub struct Membership {
    pub member: MemberId,
    pub coordinator: CoordinatorClient,
    pub directives: watch::Receiver<Directive>,
}

impl Process {
    /// Connects, registers and follows directives; `address` is where peers reach this process,
    /// empty for an actor. A stop directive, or a coordinator that is lost for good, triggers the
    /// shutdown.
    ///
    /// # Errors
    /// The coordinator does not answer or refuses the registration.
    pub async fn join(&self, address: String) -> anyhow::Result<Membership> {
        let at = &self.settings.coordinator.address;
        let channel_settings = self.channel_settings();
        let mut coordinator = connect(at, &channel_settings).await?;
        let registration = Registration {
            role: self.role,
            index: self.index,
            address,
            admin_address: self.admin_address.clone(),
        };
        let member = coordinator.register(registration).await?;
        let stream = coordinator.watch(member).await?;
        let (sender, directives) = watch::channel(Directive::default());
        let follower = Follower {
            coordinator: coordinator.clone(),
            member,
            sender,
            shutdown: self.shutdown.clone(),
            silence_max: silence_max(self.settings.coordinator.keepalive_ms),
        };
        self.tasks.spawn("directives", follower.run(stream));
        self.readiness.set("coordinator");
        let admin = &self.admin_address;
        tracing::info!(%member, coordinator = %at, %admin, "joined");
        Ok(Membership { member, coordinator, directives })
    }
}

impl Membership {
    /// Waits for at most `limit` until a directive has what `pick` looks for.
    ///
    /// # Errors
    /// The limit is reached, or the process is stopping.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&Directive) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut directives = self.directives.clone();
        let found = async {
            loop {
                if let Some(value) = pick(&directives.borrow_and_update()) {
                    return Ok(value);
                }
                if directives.changed().await.is_err() {
                    bail!("the coordinator is gone while waiting for {what}");
                }
            }
        };
        within(what, limit, found).await?
    }
}

/// Several keepalives may be late on a busy machine; a dead peer must still be noticed.
fn silence_max(keepalive_ms: u32) -> Duration {
    Duration::from_millis(u64::from(keepalive_ms) * 30)
}

async fn connect(at: &str, settings: &ChannelSettings) -> anyhow::Result<CoordinatorClient> {
    let policy = RetryPolicy { attempts: 8, ..RetryPolicy::default() };
    let channel = retry(policy, "connecting to the coordinator", || async {
        proto::connect(at, settings).await.map_err(Attempt::Again)
    });
    let channel = channel.await.map_err(|gave_up| gave_up.error);
    let channel = channel.with_context(|| format!("cannot join the coordinator at {at}"))?;
    Ok(CoordinatorClient::new(channel, settings))
}

struct Follower {
    coordinator: CoordinatorClient,
    member: MemberId,
    sender: watch::Sender<Directive>,
    shutdown: Shutdown,
    silence_max: Duration,
}

impl Follower {
    /// Passes directives on until the stop; reopens a broken stream a few times.
    async fn run(mut self, stream: DirectiveStream) -> anyhow::Result<()> {
        let mut stream = stream;
        loop {
            let stop = self.shutdown.clone();
            let broken = tokio::select! {
                () = stop.wait() => return Ok(()),
                broken = self.follow(&mut stream) => broken,
            };
            let Some(reason) = broken else { return Ok(()) };
            let reopened = tokio::select! {
                () = stop.wait() => return Ok(()),
                reopened = self.reopen() => reopened,
            };
            stream = reopened.with_context(|| format!("lost the coordinator: {reason}"))?;
        }
    }

    /// Why the stream ended; `None` after a stop directive.
    async fn follow(&self, stream: &mut DirectiveStream) -> Option<String> {
        loop {
            match within("a directive", self.silence_max, stream.next()).await {
                Ok(Ok(Some(directive))) => {
                    let stop = directive.stop;
                    self.sender.send_if_modified(|known| {
                        let changed = *known != directive;
                        *known = directive;
                        changed
                    });
                    if stop {
                        self.shutdown.trigger("the coordinator directed a stop");
                        return None;
                    }
                }
                Ok(Ok(None)) => return Some("it closed the stream".to_owned()),
                Ok(Err(error)) => return Some(error.to_string()),
                Err(silence) => return Some(silence.to_string()),
            }
        }
    }

    async fn reopen(&mut self) -> anyhow::Result<DirectiveStream> {
        let (coordinator, member) = (self.coordinator.clone(), self.member);
        let policy = RetryPolicy { attempts: 4, ..RetryPolicy::default() };
        let stream = retry(policy, "watching the coordinator again", || {
            let mut coordinator = coordinator.clone();
            async move { coordinator.watch(member).await.map_err(Attempt::Again) }
        });
        Ok(stream.await?)
    }
}
