//! A process' place among the ranks: where the previous rank reaches it, and how it joins the
//! others of a generation. Which generation that is comes from the coordinator.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, ensure};
use candle_core::Device;
use proto::Formation;
use security::Guard;
use settings::Settings;

use crate::collective::{Collective, Interrupt, Protection, Ring, RingPlan, Solo};

/// Kept over all generations.
#[derive(Debug)]
pub(crate) struct Seat {
    rank: usize,
    listener: TcpListener,
    #[cfg_attr(not(feature = "nccl"), expect(dead_code, reason = "only NCCL sums on devices"))]
    device: Device,
    join_deadline: Duration,
    call_deadline: Duration,
    barrier_deadline: Duration,
    protection: Protection,
}

impl Seat {
    /// # Errors
    /// `learner.ring_listen` is in use or none of this machine's addresses, or others reach it and
    /// nothing protects it.
    pub(crate) fn new(
        settings: &Settings,
        rank: u32,
        device: Device,
        guard: &Guard,
    ) -> anyhow::Result<Self> {
        let listen = &settings.learner.ring_listen;
        let listener = TcpListener::bind(listen).with_context(|| {
            format!(
                "cannot listen on {listen} (learner.ring_listen): choose another port, or 0 for a \
                 free one"
            )
        })?;
        let address = listener.local_addr().context("the ring's port has no address")?;
        let plaintext = settings.learner.ring_plaintext;
        ensure!(
            plaintext || guard.may_listen(address.ip()),
            "learner.ring_listen is {address}, which other machines reach: give this process \
             credentials (docs/security.md), listen on 127.0.0.1, or, on a network of these \
             machines alone, set learner.ring_plaintext=true"
        );
        let protection =
            Protection { guard: guard.clone(), encrypted: guard.encrypts() && !plaintext };
        let millis = |n: u32| Duration::from_millis(u64::from(n));
        Ok(Self {
            rank: rank as usize,
            listener,
            device,
            join_deadline: millis(settings.learner.ring_join_timeout_ms),
            call_deadline: millis(settings.learner.ring_call_timeout_ms),
            barrier_deadline: millis(settings.coordinator.stall_timeout_ms),
            protection,
        })
    }

    /// Where the previous rank is to connect.
    ///
    /// # Errors
    /// The listener has no address.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        Ok(self.listener.local_addr().context("the ring's port has no address")?.to_string())
    }

    /// Joins the others.
    ///
    /// # Errors
    /// `Lost` where the others do not come in time; otherwise ranks that this process is not among.
    pub(crate) fn join(
        &self,
        formation: &Formation,
        interrupt: Interrupt,
    ) -> anyhow::Result<Box<dyn Collective>> {
        let world = formation.ranks.len();
        ensure!(
            self.rank < world,
            "this is learner-{}, but the run has {world} ranks: start it with a lower --index",
            self.rank
        );
        if world == 1 {
            return Ok(Box::new(Solo::new(formation.generation)));
        }
        let addresses = formation.ranks.iter().map(|rank| resolve(&rank.ring_address));
        let plan = RingPlan {
            rank: self.rank,
            addresses: addresses.collect::<anyhow::Result<_>>()?,
            generation: formation.generation,
            join_deadline: self.join_deadline,
            call_deadline: self.call_deadline,
            barrier_deadline: self.barrier_deadline,
            interrupt,
            protection: self.protection.clone(),
        };
        self.on_devices(Ring::join(&plan, &self.listener)?)
    }

    #[cfg(not(feature = "nccl"))]
    fn on_devices(&self, ring: Ring) -> anyhow::Result<Box<dyn Collective>> {
        Ok(Box::new(ring))
    }

    /// On CUDA devices large sums go over NCCL; the ring names the communicator and stays for
    /// counts and barriers.
    #[cfg(feature = "nccl")]
    fn on_devices(&self, mut ring: Ring) -> anyhow::Result<Box<dyn Collective>> {
        use crate::collective::{Nccl, NcclPlan, OnDevices, nccl_id};

        if self.device.is_cpu() {
            return Ok(Box::new(ring));
        }
        let mut id = [0.0; crate::collective::NCCL_ID_BYTES];
        if self.rank == 0 {
            id = nccl_id()?.map(f64::from);
        }
        ring.all_reduce_sum_f64(&mut id)?;
        let plan = NcclPlan {
            rank: self.rank,
            world: ring.world(),
            generation: ring.generation(),
            id: id.map(|byte| byte as u8),
            deadline: self.call_deadline,
        };
        let sums = Nccl::join(plan, &self.device)?;
        Ok(Box::new(OnDevices::new(ring, sums)))
    }
}

fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = address
        .to_socket_addrs()
        .with_context(|| format!("the ring's address {address} cannot be looked up"))?;
    found.next().with_context(|| format!("the ring's address {address} names no host"))
}

#[cfg(test)]
mod tests {
    use proto::Rank;
    use types::Generation;

    use super::*;

    fn formation(addresses: &[String]) -> Formation {
        let rank =
            |address: &String| Rank { address: String::new(), ring_address: address.clone() };
        Formation {
            generation: Generation(3),
            committed: 0,
            run: 1,
            ranks: addresses.iter().map(rank).collect(),
        }
    }

    #[test]
    fn processes_find_each_other_in_every_generation() {
        let settings = Settings::default();
        let seat = |rank| Seat::new(&settings, rank, Device::Cpu, &Guard::default()).unwrap();
        let seats = [0, 1].map(seat);
        let addresses = [0, 1].map(|at: usize| seats[at].address().unwrap());
        for generation in [3, 4] {
            let formation =
                Formation { generation: Generation(generation), ..formation(&addresses) };
            let join = |seat: &Seat| {
                let mut ranks = seat.join(&formation, Interrupt::never()).unwrap();
                assert_eq!(ranks.generation(), Generation(generation));
                let mut value = [1.0 + ranks.rank() as f64];
                ranks.all_reduce_sum_f64(&mut value).unwrap();
                value[0]
            };
            let sums = std::thread::scope(|scope| {
                let join = &join;
                let both = seats.each_ref().map(|seat| scope.spawn(move || join(seat)));
                both.map(|rank| rank.join().unwrap())
            });
            assert_eq!(sums, [3.0, 3.0]);
        }
    }

    #[test]
    fn a_ring_that_other_machines_reach_is_asked_for_by_name() {
        let mut settings = Settings::default();
        settings.learner.ring_listen = "0.0.0.0:0".to_owned();
        let guard = Guard::default();
        let error = Seat::new(&settings, 0, Device::Cpu, &guard).unwrap_err().to_string();
        assert!(error.contains("learner.ring_plaintext=true"), "{error}");
        settings.learner.ring_plaintext = true;
        assert!(Seat::new(&settings, 0, Device::Cpu, &guard).is_ok());
    }

    #[test]
    fn credentials_open_the_ring_to_other_machines_and_encrypt_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = ::tests::TestAuthority::new(dir.path());
        let own = authority.good("own");
        let mut settings = Settings::default();
        settings.learner.ring_listen = "0.0.0.0:0".to_owned();
        settings.security.authority = authority.pem();
        settings.security.certificate = own.certificate;
        settings.security.key = own.key;
        settings.security.token_file = authority.token("token", &"t".repeat(40));
        let guard = Guard::open(&settings).unwrap();
        let seat = Seat::new(&settings, 0, Device::Cpu, &guard).unwrap();
        assert!(seat.protection.encrypted);
        settings.learner.ring_plaintext = true;
        let seat = Seat::new(&settings, 0, Device::Cpu, &guard).unwrap();
        assert!(!seat.protection.encrypted, "asked for by name");
    }

    #[test]
    fn a_rank_too_many_is_told_so() {
        let guard = Guard::default();
        let seat = Seat::new(&Settings::default(), 2, Device::Cpu, &guard).unwrap();
        let two = ["127.0.0.1:1", "127.0.0.1:2"].map(str::to_owned);
        let error = seat.join(&formation(&two), Interrupt::never()).map(|_| ()).unwrap_err();
        let expected = "this is learner-2, but the run has 2 ranks: start it with a lower --index";
        assert_eq!(error.to_string(), expected);
    }
}
