//! How a ring forms: each rank calls the next and answers the one before, and both must be of one
//! generation. What is summed afterwards is the ring's.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use runtime::waiting;
use security::{Blocking, Guard};
use types::Generation;

use super::{Ring, describe, frame};
use crate::collective::Lost;
use crate::collective::patience::{Interrupt, Patience};

const MAGIC: [u8; 8] = *b"tdmring1";
const HELLO_BYTES: usize = 8 + 3 * 4;
/// How long a caller may take to say who it is: a stranger must not use up the deadline.
const HELLO_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at a neighbour that is not there yet.
const PAUSE: Duration = Duration::from_millis(10);

/// Who forms the ring.
#[derive(Clone, Debug)]
pub struct RingPlan {
    pub rank: usize,
    /// Of every rank, in their order.
    pub addresses: Vec<SocketAddr>,
    pub generation: Generation,
    /// For all neighbours to be there.
    pub join_deadline: Duration,
    /// For one collective call, from the first rank's entry to the last's exit.
    pub call_deadline: Duration,
    /// The same for a barrier, at which ranks may have to wait for each other's work.
    pub barrier_deadline: Duration,
    /// Ends every wait.
    pub interrupt: Interrupt,
    pub protection: Protection,
}

/// What keeps strangers out of the sums.
#[derive(Clone, Debug, Default)]
pub struct Protection {
    /// Whoever calls shows the token of this run, where it has one.
    pub guard: Guard,
    /// Otherwise plaintext.
    pub encrypted: bool,
}

impl Protection {
    fn calling(&self, socket: TcpStream) -> io::Result<Blocking> {
        match self.encrypted {
            true => Blocking::calling(&self.guard, socket),
            false => Ok(Blocking::plain(socket)),
        }
    }

    fn answering(&self, socket: TcpStream) -> io::Result<Blocking> {
        match self.encrypted {
            true => Blocking::answering(&self.guard, socket),
            false => Ok(Blocking::plain(socket)),
        }
    }

    /// The caller's first words.
    fn show(&self, to: &mut Blocking, patience: &Patience) -> io::Result<()> {
        let bearer = self.guard.bearer().unwrap_or_default();
        let length = u16::try_from(bearer.len()).map_err(io::Error::other)?;
        frame::put(to, &[&length.to_le_bytes(), bearer.as_bytes()].concat(), patience)
    }

    fn check(&self, from: &mut Blocking, patience: &Patience) -> io::Result<()> {
        let mut length = [0; 2];
        frame::fill(from, &mut length, patience)?;
        let mut bearer = vec![0; usize::from(u16::from_le_bytes(length))];
        frame::fill(from, &mut bearer, patience)?;
        let shown = Some(&*bearer).filter(|shown| !shown.is_empty());
        self.guard
            .authorize(shown)
            .map_err(|denied| io::Error::new(io::ErrorKind::PermissionDenied, denied.to_string()))
    }
}

/// What a rank says when it calls, and what it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    generation: u32,
    rank: u32,
    world: u32,
}

impl Ring {
    /// Takes this rank's place; `listener` is bound to its own address.
    ///
    /// # Errors
    /// A plan without this rank or with one rank only; a neighbour that is not there, or is of
    /// another generation, when the deadline has passed.
    pub fn join(plan: &RingPlan, listener: &TcpListener) -> anyhow::Result<Self> {
        let (rank, world) = (plan.rank, plan.addresses.len());
        ensure!(world > 1, "a ring needs at least 2 ranks, not {world}: one rank is `Solo`");
        ensure!(rank < world, "rank {rank} is not among the {world} ranks");
        let patience = Patience::of(plan.join_deadline, &plan.interrupt);
        let _waits = waiting("the ring's neighbours", Some(plan.join_deadline));
        let (next, previous) = thread::scope(|scope| {
            let calling = scope.spawn(|| call(plan, &patience));
            let previous = answer(plan, listener, &patience);
            (calling.join().expect("calling a socket does not panic"), previous)
        });
        let lost = Lost { generation: plan.generation };
        Ok(Self {
            rank,
            world,
            generation: plan.generation,
            deadline: plan.call_deadline,
            barrier_deadline: plan.barrier_deadline,
            interrupt: plan.interrupt.clone(),
            next: next.context(lost)?,
            previous: previous.context(lost)?,
            calls: 0,
        })
    }
}

impl RingPlan {
    fn hello(&self) -> Hello {
        let (rank, world) = (self.rank as u32, self.addresses.len() as u32);
        Hello { generation: self.generation.0, rank, world }
    }
}

impl Hello {
    fn bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        for (at, word) in [self.generation, self.rank, self.world].into_iter().enumerate() {
            bytes[8 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn read(from: &mut Blocking, patience: &Patience) -> io::Result<Self> {
        let mut bytes = [0; HELLO_BYTES];
        frame::fill(from, &mut bytes, patience)?;
        if bytes[..8] != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no rank of a ring"));
        }
        let word = |at: usize| {
            let bytes = bytes[8 + 4 * at..][..4].try_into();
            u32::from_le_bytes(bytes.expect("a word has 4 bytes"))
        };
        Ok(Self { generation: word(0), rank: word(1), world: word(2) })
    }
}

/// The connection to the next rank, which may still have to start.
fn call(plan: &RingPlan, patience: &Patience) -> anyhow::Result<Blocking> {
    let hello = plan.hello();
    let next = (plan.rank + 1) % plan.addresses.len();
    let address = plan.addresses[next];
    let expected = Hello { rank: next as u32, ..hello };
    let attempt = || -> io::Result<(Blocking, Hello)> {
        let socket = TcpStream::connect_timeout(&address, patience.slice()?)?;
        socket.set_nodelay(true)?;
        let mut stream = plan.protection.calling(socket)?;
        plan.protection.show(&mut stream, patience)?;
        frame::put(&mut stream, &hello.bytes(), patience)?;
        let answer = Hello::read(&mut stream, patience)?;
        Ok((stream, answer))
    };
    // Who is there says more than that nobody is any longer.
    let mut other = None;
    loop {
        let error = match attempt() {
            Ok((stream, answer)) if answer == expected => return Ok(stream),
            Ok((_, answer)) => {
                other = Some(answer);
                io::ErrorKind::InvalidData.into()
            }
            Err(error) => error,
        };
        if let Err(over) = patience.slice() {
            let error = match (other, over.kind()) {
                (_, io::ErrorKind::ConnectionAborted) => over.into(),
                (Some(other), _) => anyhow!("there is {other:?}, expected {expected:?}"),
                (None, _) => error.into(),
            };
            let limit = plan.join_deadline.as_millis();
            return Err(
                error.context(format!("rank {next} at {address} did not join within {limit} ms"))
            );
        }
        thread::sleep(PAUSE);
    }
}

/// The connection from the previous rank. Whoever else calls is told who is here, and dropped.
fn answer(
    plan: &RingPlan,
    listener: &TcpListener,
    patience: &Patience,
) -> anyhow::Result<Blocking> {
    let hello = plan.hello();
    let previous = (plan.rank + plan.addresses.len() - 1) % plan.addresses.len();
    let expected = Hello { rank: previous as u32, ..hello };
    listener.set_nonblocking(true).context("cannot listen for the ring")?;
    let mut last = String::from("nobody called");
    while patience.slice().is_ok() {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error).context("cannot listen for the ring"),
        };
        match greet(plan, socket, patience) {
            Ok((stream, caller)) if caller == expected => return Ok(stream),
            Ok((_, caller)) => last = format!("{caller:?} called, expected {expected:?}"),
            Err(error) => last = format!("a caller {}", describe(&error, HELLO_LIMIT)),
        }
    }
    let limit = plan.join_deadline.as_millis();
    Err(anyhow!(last).context(format!("rank {previous} did not call within {limit} ms")))
}

fn greet(plan: &RingPlan, socket: TcpStream, patience: &Patience) -> io::Result<(Blocking, Hello)> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    let patience = patience.at_most(HELLO_LIMIT);
    let mut stream = plan.protection.answering(socket)?;
    plan.protection.check(&mut stream, &patience)?;
    let caller = Hello::read(&mut stream, &patience)?;
    frame::put(&mut stream, &plan.hello().bytes(), &patience)?;
    Ok((stream, caller))
}
