//! The collective of several processes on CPUs: a ring of TCP connections, one from each rank to
//! the next. How ranks learn each other's addresses is not its business.
//!
//! Every sum is made in one order around the ring and then handed round, so that all ranks hold
//! the same bits.

mod frame;
mod join;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use runtime::waiting;
use security::Blocking;
use types::Generation;

use super::patience::{Interrupt, Patience};
use super::{Collective, Lost, shard};
use frame::{Frame, Number, Refusal};
pub use join::{Protection, RingPlan};

/// What a failed rank has to tell fits into the socket's buffer; this bounds the telling if not.
const ABORT_GRACE: Duration = Duration::from_millis(100);

/// One rank's place in the ring.
#[derive(Debug)]
pub struct Ring {
    rank: usize,
    world: usize,
    generation: Generation,
    /// One whole call must end within it.
    deadline: Duration,
    barrier_deadline: Duration,
    interrupt: Interrupt,
    next: Blocking,
    previous: Blocking,
    /// Calls entered so far.
    calls: u64,
}

/// What the ranks do together; they must all do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    SumF32 = 1,
    SumF64 = 2,
    ScatterF32 = 3,
    GatherF32 = 4,
}

impl Ring {
    fn next_rank(&self) -> usize {
        (self.rank + 1) % self.world
    }

    fn previous_rank(&self) -> usize {
        (self.rank + self.world - 1) % self.world
    }

    /// Rounds of sending one part and receiving another. A failure is passed on to the next rank,
    /// so that the whole ring hears of it at once and whose it is.
    fn run<T: Number>(
        &mut self,
        call: Call,
        values: &mut [T],
        rounds: &[Round],
    ) -> anyhow::Result<()> {
        self.run_within(("a sum", self.deadline), call, values, rounds)
    }

    fn run_within<T: Number>(
        &mut self,
        (what, limit): (&str, Duration),
        call: Call,
        values: &mut [T],
        rounds: &[Round],
    ) -> anyhow::Result<()> {
        self.calls += 1;
        let what = format!("{what} with rank {}", self.previous_rank());
        let _waits = waiting(what, Some(limit));
        let patience = Patience::of(limit, &self.interrupt);
        let head = Frame { call: call as u8, number: self.calls, values: values.len() as u64 };
        for round in rounds {
            if let Err((guilty, error)) = self.exchange(values, round, &head, &patience) {
                // The next rank may be gone itself; its own deadline tells it then.
                let _ = frame::write_abort(&mut self.next, guilty, &patience.and(ABORT_GRACE));
                let call = self.calls;
                let lost = Lost { generation: self.generation };
                return Err(error
                    .context(format!("rank {guilty} failed in collective call {call}"))
                    .context(lost));
            }
        }
        Ok(())
    }

    /// Both directions at once: each rank's sending waits for its neighbour's receiving. With the
    /// error comes the rank whose fault it is.
    fn exchange<T: Number>(
        &mut self,
        values: &mut [T],
        round: &Round,
        head: &Frame,
        patience: &Patience,
    ) -> Result<(), (usize, anyhow::Error)> {
        let (next_rank, previous_rank) = (self.next_rank(), self.previous_rank());
        let (outgoing, incoming) = round.split(values);
        let (next, previous) = (&mut self.next, &mut self.previous);
        let (sent, received) = thread::scope(|scope| {
            let sender = scope.spawn(|| frame::write(next, head, outgoing, patience));
            let received = frame::read(previous, head, (incoming, round.adds), patience);
            (sender.join().expect("writing to a socket does not panic"), received)
        });
        received.map_err(|refusal| match refusal {
            Refusal::Aborted(guilty) => (guilty, anyhow!("rank {previous_rank} gave up")),
            Refusal::Io(error) => {
                let what = describe(&error, self.deadline);
                (previous_rank, anyhow!("rank {previous_rank} {what}"))
            }
            Refusal::Differs(what) => (previous_rank, anyhow!("rank {previous_rank} {what}")),
        })?;
        sent.map_err(|error| {
            (next_rank, anyhow!("rank {next_rank} {}", describe(&error, self.deadline)))
        })
    }

    /// After these rounds each rank has the whole sum of its own part.
    fn scatter_rounds(&self, len: usize) -> Vec<Round> {
        let part = |rank: usize| shard(len, rank % self.world, self.world);
        let (rank, world) = (self.rank + self.world, self.world);
        let round = |i: usize| Round {
            send: part(rank - 1 - i),
            receive: part(rank - 2 - i + world),
            adds: true,
        };
        (0..world - 1).map(round).collect()
    }

    /// Each rank begins with its own part and ends with all of them.
    fn gather_rounds(&self, len: usize) -> Vec<Round> {
        let part = |rank: usize| shard(len, rank % self.world, self.world);
        let rank = self.rank + self.world;
        let round =
            |i: usize| Round { send: part(rank - i), receive: part(rank - 1 - i), adds: false };
        (0..self.world - 1).map(round).collect()
    }

    fn all_reduce<T: Number>(&mut self, call: Call, values: &mut [T]) -> anyhow::Result<()> {
        let mut rounds = self.scatter_rounds(values.len());
        rounds.extend(self.gather_rounds(values.len()));
        self.run(call, values, &rounds)
    }
}

/// One part goes out while another comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Round {
    send: Range<usize>,
    receive: Range<usize>,
    /// What comes in is added, or put in the place.
    adds: bool,
}

impl Round {
    /// Two parts of one slice; they never overlap.
    fn split<'a, T>(&self, values: &'a mut [T]) -> (&'a [T], &'a mut [T]) {
        let (send, receive) = (&self.send, &self.receive);
        if send.end <= receive.start {
            let (low, high) = values.split_at_mut(receive.start);
            (&low[send.clone()], &mut high[..receive.len()])
        } else {
            let (low, high) = values.split_at_mut(send.start);
            (&high[..send.len()], &mut low[receive.clone()])
        }
    }
}

impl Collective for Ring {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        self.all_reduce(Call::SumF32, values)
    }

    fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> anyhow::Result<()> {
        self.all_reduce(Call::SumF64, values)
    }

    fn reduce_scatter_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        let rounds = self.scatter_rounds(values.len());
        self.run(Call::ScatterF32, values, &rounds)
    }

    fn all_gather(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        let rounds = self.gather_rounds(values.len());
        self.run(Call::GatherF32, values, &rounds)
    }

    fn barrier(&mut self) -> anyhow::Result<()> {
        let mut nothing = [0.0_f64];
        let mut rounds = self.scatter_rounds(nothing.len());
        rounds.extend(self.gather_rounds(nothing.len()));
        let barrier = ("the barrier", self.barrier_deadline);
        self.run_within(barrier, Call::SumF64, &mut nothing, &rounds)
    }
}

fn describe(error: &io::Error, deadline: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("did not answer within {} ms", deadline.as_millis())
        }
        io::ErrorKind::ConnectionAborted => {
            "is waited for no longer: the ranks form anew, or this process stops".to_owned()
        }
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => "has closed its connection".to_owned(),
        _ => format!("cannot be reached: {error}"),
    }
}
