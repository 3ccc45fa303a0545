//! Joining the coordinator and following its directives.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use proto::{
    ChannelError, ChannelSettings, CoordinatorClient, Directive, DirectiveStream, ErrorCode,
    Registration, RpcError,
};
use runtime::{Attempt, RetryPolicy, Shutdown, retry, unique_number, within};
use tokio::sync::watch;
use tokio::time::timeout;
use types::{Generation, MemberId};

use crate::Process;
use crate::announce::{announced, own_host};
use crate::heart::Heart;
use crate::tie::Tie;

/// Several keepalives may be late on a busy machine; a dead peer must still be noticed.
const SILENCE_KEEPALIVES: u32 = 30;

/// A process as part of a run.
#[derive(Clone, Debug)]
pub struct Membership {
    pub tie: Tie,
    /// Among the processes of its role, as it is at first: a coordinator that goes on may choose
    /// another where none was given.
    pub index: u32,
    pub directives: watch::Receiver<Directive>,
}

/// The stop came before the process had joined; not a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the process is stopping and did not join")
    }
}

impl std::error::Error for Stopped {}

impl Process {
    /// Connects, registers, follows directives and gives signs of life; `address` is the port for
    /// peers, empty for an actor, and `ring_address` that for a learner's previous rank. A stop directive, or a coordinator that is lost for good, triggers the shutdown.
    ///
    /// # Errors
    /// The coordinator does not answer or refuses the registration, or the stop comes before.
    pub async fn join(&self, address: String, ring_address: String) -> anyhow::Result<Membership> {
        tokio::select! {
            biased;
            () = self.shutdown.wait() => Err(Stopped.into()),
            joined = self.join_unless_stopped(address, ring_address) => joined,
        }
    }

    async fn join_unless_stopped(
        &self,
        address: String,
        ring_address: String,
    ) -> anyhow::Result<Membership> {
        let at = &self.settings.coordinator.address;
        let channel_settings = self.channel_settings();
        let mut coordinator = connect(at, &channel_settings).await?;
        let limit = channel_settings.connect_timeout;
        let host = own_host(&self.settings.network.advertise, at);
        let host = within("this machine's address towards the coordinator", limit, host).await?;
        let host = host.context(
            "this machine has no address towards the coordinator: set network.advertise",
        )?;
        let member = MemberId(unique_number());
        let registration = Registration {
            member,
            role: self.role,
            index: self.index,
            address: announced(&address, &host),
            admin_address: announced(&self.admin_address, &host),
            ring_address: announced(&ring_address, &host),
            generation: Generation(0),
        };
        let index = coordinator.register(registration.clone()).await?;
        let stream = coordinator.watch(member).await?;
        let (sender, directives) = watch::channel(Directive::default());
        let millis = |n: u32| Duration::from_millis(u64::from(n));
        let (keepalive, patience) = {
            let limits = &self.settings.coordinator;
            (millis(limits.keepalive_ms), millis(limits.return_timeout_ms))
        };
        let tie = Tie { coordinator: coordinator.clone(), member, patience };
        let follower = Follower {
            coordinator: coordinator.clone(),
            registration,
            sender,
            shutdown: self.shutdown.clone(),
            silence_max: keepalive * SILENCE_KEEPALIVES,
            patience: tie.patience,
        };
        self.tasks.spawn("directives", follower.run(stream));
        let heart = Heart {
            coordinator: coordinator.clone(),
            member,
            health: self.health.clone(),
            pause: keepalive,
        };
        self.tasks.spawn("heartbeat", heart.run(self.shutdown.clone()));
        self.readiness.set("coordinator");
        let admin = &self.admin_address;
        let name = self.role.name_of(index);
        tracing::info!(name, %member, coordinator = %at, %admin, "joined");
        let membership = Membership { tie, index, directives };
        // A process joins once.
        let _ = self.membership.set(membership.clone());
        Ok(membership)
    }
}

async fn connect(at: &str, settings: &ChannelSettings) -> anyhow::Result<CoordinatorClient> {
    let policy = RetryPolicy { attempts: 8, ..RetryPolicy::default() };
    let channel = retry(policy, "connecting to the coordinator", || async {
        proto::connect(at, settings).await.map_err(|error| match error {
            ChannelError::Connect { .. } => Attempt::Again(error),
            _ => Attempt::Stop(error),
        })
    });
    let channel = channel.await;
    let channel = channel.with_context(|| format!("cannot join the coordinator at {at}"))?;
    Ok(CoordinatorClient::new(channel, settings))
}

fn passing(error: RpcError) -> Attempt<RpcError> {
    match error.code.retryable() {
        true => Attempt::Again(error),
        false => Attempt::Stop(error),
    }
}

struct Follower {
    coordinator: CoordinatorClient,
    registration: Registration,
    sender: watch::Sender<Directive>,
    shutdown: Shutdown,
    silence_max: Duration,
    patience: Duration,
}

impl Follower {
    /// Passes directives on until the stop; reopens a broken stream while there is hope.
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
    async fn follow(&mut self, stream: &mut DirectiveStream) -> Option<String> {
        loop {
            // Every process does so all the time: it is no wait that anybody should see.
            match timeout(self.silence_max, stream.next()).await {
                Ok(Ok(Some(directive))) => {
                    let stop = directive.stop;
                    if let Some(formation) = &directive.formation {
                        let known = &mut self.registration.generation;
                        *known = formation.generation.max(*known);
                    }
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
                Err(_) => {
                    let seconds = self.silence_max.as_secs_f64();
                    return Some(format!("it has said nothing for {seconds} s"));
                }
            }
        }
    }

    /// Another coordinator, which goes on with the run, does not know this process yet.
    async fn reopen(&self) -> anyhow::Result<DirectiveStream> {
        let policy = RetryPolicy::lasting(self.patience);
        let stream = retry(policy, "the return of the coordinator", || async {
            let (mut coordinator, member) = (self.coordinator.clone(), self.registration.member);
            match coordinator.watch(member).await {
                Err(error) if error.code == ErrorCode::UnknownMember => {
                    coordinator.register(self.registration.clone()).await.map_err(passing)?;
                    coordinator.watch(member).await.map_err(passing)
                }
                stream => stream.map_err(passing),
            }
        });
        Ok(stream.await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::Role;
    use runtime::TaskGroup;
    use security::Guard;
    use settings::Settings;
    use telemetry::{Health, Readiness};

    use super::*;

    const AMPLE: Duration = Duration::from_secs(60);

    fn process(coordinator: &str) -> Process {
        let mut settings = Settings::default();
        settings.coordinator.address = coordinator.to_owned();
        let shutdown = Shutdown::new();
        Process {
            settings: Arc::new(settings),
            role: Role::Actor,
            index: Some(0),
            tasks: TaskGroup::new(shutdown.clone()),
            shutdown,
            readiness: Readiness::new(&[]),
            health: Health::of_progress(AMPLE),
            admin_address: String::new(),
            guard: Guard::default(),
            membership: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait_for_a_silent_coordinator() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let process = process(&silent.local_addr().unwrap().to_string());
        let joined = async {
            let join = process.join(String::new(), String::new());
            let stop = async {
                // It is connected and waits for an answer.
                let connection = silent.accept().await.unwrap();
                process.shutdown.trigger("the test has seen enough");
                connection
            };
            let (joined, _connection) = tokio::join!(join, stop);
            joined
        };
        // Far less than the limits of the call would take.
        let joined = within("the stop", Duration::from_secs(10), joined).await.unwrap();
        assert!(joined.unwrap_err().is::<Stopped>());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_not_tried_again() {
        let settings = ChannelSettings::default();
        let error = connect("no address", &settings).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("cannot join the coordinator at no address"), "{text}");
        assert!(text.contains("failed after 1 attempts"), "{text}");
        assert!(text.contains("write host:port"), "{text}");
    }
}
