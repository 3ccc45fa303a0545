//! The coordinator's host: the real service over a hub, with the disk's share played by the seed.
//! Whatever the hub holds is gone with the host; what was on disk is what the next one begins with.

use std::rc::Rc;
use std::time::Duration;

use proto::JournalEntry;
use settings::Settings;
use tonic::transport::Server;

use super::net::{PING, incoming, listen};
use super::world::World;
use crate::hub::{Hub, Records};
use crate::journal::{Journal, JournalLimits, Pen, surviving};
use crate::service::{ServiceLimits, service};
use crate::spec::RunSpec;
use crate::state::RunState;

pub(super) const NAME: &str = "coordinator";
pub(super) const PORT: u16 = 7000;
const RUN: u64 = 9;
pub(super) const KEEPALIVE: Duration = Duration::from_millis(200);
const LIMITS: JournalLimits =
    JournalLimits { timeout: Duration::from_secs(5), queue_bytes: 1 << 20 };

pub(super) async fn coordinate(world: Rc<World>) -> turmoil::Result {
    let (journal, pen) = Journal::by_hand(LIMITS);
    let hub = resume(&world, journal)?;
    let mut limits = ServiceLimits::new(&Settings::default());
    limits.keepalive = KEEPALIVE;
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .add_service(service(hub.clone(), limits))
        .serve_with_incoming(incoming(listen(PORT).await?));
    tokio::select! {
        biased;
        served = server => Ok(served?),
        never = tick(&world, hub) => never,
        never = write(&world, pen) => never,
    }
}

/// What the disk leaves, in a journal that was written anew with only what still counts.
fn resume(world: &World, journal: Journal) -> anyhow::Result<Hub> {
    let mut entries = world.oracle().disk().to_vec();
    if entries.is_empty() {
        entries.push(JournalEntry::Opened { run: RUN, format: proto::JOURNAL_FORMAT });
    }
    let again = world.oracle().has_lived();
    let surviving = surviving(entries)?;
    let surviving = if again { surviving.gone_on_from() } else { surviving };
    // Leases of two coordinators have different numbers.
    let spec = RunSpec { first_lease: world.unique() << 32, ..world.spec.clone() };
    let state = RunState::resumed(spec, world.source.clone(), &surviving)?;
    let earlier = surviving.committed.last().map_or(Duration::ZERO, |(_, wall)| *wall);
    let hub = Hub::new(state, 3, Records { journal: Some(journal), earlier, ..Records::default() });
    world.oracle().resumed(&hub, surviving.entries());
    Ok(hub)
}

async fn tick(world: &World, hub: Hub) -> turmoil::Result {
    loop {
        world.pause(20..80).await;
        let now = hub.now();
        hub.change(|state| state.tick(now));
    }
}

/// A write is there at its beginning, or only at its end; either way nobody hears of it before.
async fn write(world: &World, mut pen: Pen) -> turmoil::Result {
    loop {
        let entries = pen.take();
        let early = world.once_in(2);
        if early {
            world.oracle().written(&entries);
        }
        world.pause(1..15).await;
        if !early {
            world.oracle().written(&entries);
        }
        pen.synced();
    }
}
