//! What travels between two ranks: a head that says which call it belongs to, then numbers. Whose
//! turn it is belongs to the ring.

use std::io::{self, Read, Write};

use security::Blocking;

use crate::collective::patience::Patience;

/// In the place of a call: the sender has failed, and the number is the rank whose fault it is.
const ABORT: u8 = 0;
const HEAD_BYTES: usize = 1 + 8 + 8;
/// Numbers that are packed at once.
const PIECE: usize = 1 << 14;

/// Says what the numbers behind it are, so that ranks which do different things notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) call: u8,
    pub(super) number: u64,
    /// Of the whole call.
    pub(super) values: u64,
}

/// Why nothing was received.
#[derive(Debug)]
pub(super) enum Refusal {
    Io(io::Error),
    /// The sender names the rank whose fault it is.
    Aborted(usize),
    /// The sender does something else.
    Differs(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Numbers that travel, little-endian.
pub(super) trait Number: Copy + Send + Sync {
    const BYTES: usize;

    fn append(self, to: &mut Vec<u8>);

    fn read(bytes: &[u8]) -> Self;

    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    ($kind:ty) => {
        impl Number for $kind {
            const BYTES: usize = size_of::<$kind>();

            fn append(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("chunks have the number's size"))
            }

            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    };
}

number!(f32);
number!(f64);

impl Frame {
    fn bytes(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0] = self.call;
        bytes[1..9].copy_from_slice(&self.number.to_le_bytes());
        bytes[9..].copy_from_slice(&self.values.to_le_bytes());
        bytes
    }

    fn parse(bytes: [u8; HEAD_BYTES]) -> Self {
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word has 8 bytes"))
        };
        Self { call: bytes[0], number: word(1), values: word(9) }
    }
}

pub(super) fn write_abort(to: &mut Blocking, guilty: usize, patience: &Patience) -> io::Result<()> {
    let head = Frame { call: ABORT, number: guilty as u64, values: 0 };
    put(to, &head.bytes(), patience)
}

pub(super) fn write<T: Number>(
    to: &mut Blocking,
    head: &Frame,
    values: &[T],
    patience: &Patience,
) -> io::Result<()> {
    put(to, &head.bytes(), patience)?;
    let mut bytes = Vec::with_capacity(PIECE * T::BYTES);
    for piece in values.chunks(PIECE) {
        bytes.clear();
        piece.iter().for_each(|value| value.append(&mut bytes));
        put(to, &bytes, patience)?;
    }
    Ok(())
}

/// The numbers behind a head that is as expected; they are added, or put in the place.
pub(super) fn read<T: Number>(
    from: &mut Blocking,
    expected: &Frame,
    (values, adds): (&mut [T], bool),
    patience: &Patience,
) -> Result<(), Refusal> {
    let mut head = [0; HEAD_BYTES];
    fill(from, &mut head, patience)?;
    let head = Frame::parse(head);
    if head.call == ABORT {
        return Err(Refusal::Aborted(head.number as usize));
    }
    if head != *expected {
        return Err(Refusal::Differs(format!(
            "is in call {} of kind {} on {} values, this rank in call {} of kind {} on {}",
            head.number, head.call, head.values, expected.number, expected.call, expected.values
        )));
    }
    let mut bytes = vec![0; PIECE * T::BYTES];
    for piece in values.chunks_mut(PIECE) {
        let bytes = &mut bytes[..piece.len() * T::BYTES];
        fill(from, bytes, patience)?;
        for (to, bytes) in piece.iter_mut().zip(bytes.chunks_exact(T::BYTES)) {
            let value = T::read(bytes);
            *to = if adds { to.plus(value) } else { value };
        }
    }
    Ok(())
}

pub(super) fn put(to: &mut Blocking, mut bytes: &[u8], patience: &Patience) -> io::Result<()> {
    while !bytes.is_empty() {
        set_timeouts(to, patience)?;
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if Patience::outlasts(&error) => {}
            Err(error) => return Err(error),
        }
    }
    loop {
        set_timeouts(to, patience)?;
        match to.flush() {
            Err(error) if Patience::outlasts(&error) => {}
            flushed => return flushed,
        }
    }
}

pub(super) fn fill(from: &mut Blocking, mut to: &mut [u8], patience: &Patience) -> io::Result<()> {
    while !to.is_empty() {
        set_timeouts(from, patience)?;
        match from.read(to) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => to = &mut to[read..],
            Err(error) if Patience::outlasts(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Both, for a handshake reads where numbers are written.
fn set_timeouts(of: &Blocking, patience: &Patience) -> io::Result<()> {
    let slice = Some(patience.slice()?);
    of.socket().set_write_timeout(slice)?;
    of.socket().set_read_timeout(slice)
}
