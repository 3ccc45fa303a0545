//! Several ranks on threads of one process, over loopback, for this crate's tests.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use types::Generation;

use super::{Interrupt, Protection, Ring, RingPlan};

const JOIN: Duration = Duration::from_secs(20);

/// Listeners of `world` ranks and their plans.
pub(crate) fn plans(world: usize, call_deadline: Duration) -> Vec<(RingPlan, TcpListener)> {
    let listeners: Vec<TcpListener> =
        (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    let plan = |(rank, listener)| {
        let plan = RingPlan {
            rank,
            addresses: addresses.clone(),
            generation: Generation(4),
            join_deadline: JOIN,
            call_deadline,
            barrier_deadline: JOIN,
            interrupt: Interrupt::never(),
            protection: Protection::default(),
        };
        (plan, listener)
    };
    listeners.into_iter().enumerate().map(plan).collect()
}

/// What `work` gives on every rank.
pub(crate) fn on_ranks<R: Send>(
    plans: Vec<(RingPlan, TcpListener)>,
    work: impl Fn(Ring) -> R + Sync,
) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let rank = |(plan, listener): (RingPlan, TcpListener)| {
            scope.spawn(move || work(Ring::join(&plan, &listener).unwrap()))
        };
        let ranks: Vec<_> = plans.into_iter().map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}
