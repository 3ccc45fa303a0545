//! What all simulated members do: join, follow directives, give signs of life.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proto::{ChannelSettings, CoordinatorClient, Directive, Pulse, Registration, Role};
use runtime::{TaskGroup, unique_number};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use types::{Generation, MemberId};

use crate::figures::{Figures, Rpc};

const HEARTBEAT: Duration = Duration::from_secs(1);

/// A member with its own connection.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) coordinator: CoordinatorClient,
    pub(crate) directives: watch::Receiver<Directive>,
}

impl Member {
    pub(crate) async fn join(
        address: &str,
        channel: &ChannelSettings,
        (role, index): (Role, u32),
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        let name = role.name_of(index);
        let line = proto::connect(address, channel).await?;
        let mut coordinator = CoordinatorClient::new(line, channel);
        let id = MemberId(unique_number());
        // Nobody connects to them.
        let elsewhere =
            || if role == Role::Actor { String::new() } else { "127.0.0.1:1".to_owned() };
        coordinator
            .register(Registration {
                member: id,
                role,
                index: Some(index),
                address: elsewhere(),
                admin_address: String::new(),
                ring_address: elsewhere(),
                generation: Generation(0),
            })
            .await
            .with_context(|| format!("{name} is not let in"))?;
        let mut stream = coordinator.watch(id).await?;
        let (sender, directives) = watch::channel(Directive::default());
        let stop = tasks.shutdown().wait();
        tasks.spawn(format!("directives of {name}"), async move {
            let follow = async {
                while let Some(directive) = stream.next().await? {
                    sender.send_replace(directive);
                }
                anyhow::bail!("the coordinator has closed the watch of {name}")
            };
            tokio::select! {
                () = stop => Ok(()),
                followed = follow => followed,
            }
        });
        Ok(Self { id, coordinator, directives })
    }

    /// Signs of life until the stop, from some moment within the first second.
    pub(crate) async fn beat(
        id: MemberId,
        mut coordinator: CoordinatorClient,
        figures: Arc<Figures>,
    ) -> anyhow::Result<()> {
        tokio::time::sleep(phase(id, HEARTBEAT)).await;
        let mut ticks = tokio::time::interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let pulse = Pulse { member: id, idle: Duration::ZERO, waits: Vec::new() };
            figures.timed(Rpc::Heartbeat, coordinator.heartbeat(pulse)).await;
        }
    }
}

/// Members do not act at one moment.
pub(crate) fn phase(id: MemberId, period: Duration) -> Duration {
    Duration::from_millis(id.0 % period.as_millis() as u64)
}

/// One that is only there.
pub(crate) async fn weak_server(
    tasks: &TaskGroup,
    address: &str,
    channel: &ChannelSettings,
) -> anyhow::Result<()> {
    let member = Member::join(address, channel, (Role::WeakServer, 0), tasks).await?;
    let (stop, figures) = (tasks.shutdown().wait(), Arc::new(Figures::default()));
    tasks.spawn("weak-server", async move {
        tokio::select! {
            () = stop => Ok(()),
            never = Member::beat(member.id, member.coordinator, figures) => never,
        }
    });
    Ok(())
}
