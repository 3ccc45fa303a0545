//! The journal's bytes: a header, then frames of length, checksum, sequence number and payload, all
//! little-endian. Pure; what a damaged frame means is `scan`'s to say.

const MAGIC: [u8; 8] = *b"tandem-j";
/// Of header and frames; the entries say theirs themselves.
pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER_BYTES: usize = MAGIC.len() + 4;
/// What stands before a payload; a seal is nothing else.
pub(super) const HEAD_BYTES: usize = 4 + 4 + 8;
const LENGTH_BYTES: usize = 4;

/// One entry's bytes, at most.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// All entries of one frame with their lengths, at most.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;
pub(super) const FRAME_BYTES_MAX: usize = HEAD_BYTES + PAYLOAD_BYTES_MAX;

#[must_use]
pub(super) fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&FORMAT.to_le_bytes());
    bytes
}

/// The format that a file's first bytes name; none if it is no journal.
#[must_use]
pub(super) fn format_of(bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    rest.first_chunk().map(|format| u32::from_le_bytes(*format))
}

/// The entries of one frame.
#[derive(Debug, Default)]
pub(super) struct Batch {
    payload: Vec<u8>,
    entries: u64,
}

impl Batch {
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    #[must_use]
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether one more entry of that size may be added.
    #[must_use]
    pub(super) fn fits(&self, entry_bytes: usize) -> bool {
        self.payload.len() + LENGTH_BYTES + entry_bytes <= PAYLOAD_BYTES_MAX
    }

    pub(super) fn push(&mut self, entry: &[u8]) {
        debug_assert!(entry.len() <= ENTRY_BYTES_MAX && self.fits(entry.len()));
        self.payload.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        self.payload.extend_from_slice(entry);
        self.entries += 1;
    }

    /// `sequence` is the number of the first entry.
    #[must_use]
    pub(super) fn frame(&self, sequence: u64) -> Vec<u8> {
        frame(sequence, &self.payload)
    }
}

/// Says that all entries before `sequence` are on disk.
#[must_use]
pub(super) fn seal(sequence: u64) -> Vec<u8> {
    frame(sequence, &[])
}

fn frame(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(length, sequence, payload).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn checksum(length: u32, sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A frame whose checksum is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) sequence: u64,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that begins `bytes`, if its sequence number is one of `sequences`. The checksum is
    /// computed last, so that looking for a frame costs little where there is none.
    #[must_use]
    pub(super) fn read(bytes: &'a [u8], sequences: std::ops::Range<u64>) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (length, sequence) = (u32::from_le_bytes(*length), u64::from_le_bytes(*sequence));
        if length as usize > PAYLOAD_BYTES_MAX || !sequences.contains(&sequence) {
            return None;
        }
        let payload = rest.get(..length as usize)?;
        let whole = u32::from_le_bytes(*sum) == checksum(length, sequence, payload);
        whole.then_some(Self { sequence, payload })
    }

    #[must_use]
    pub(super) fn is_seal(&self) -> bool {
        self.payload.is_empty()
    }

    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        HEAD_BYTES + self.payload.len()
    }

    /// The entries' bytes; none where their lengths do not fill the payload.
    #[must_use]
    pub(super) fn entries(&self) -> Option<Vec<&'a [u8]>> {
        let (mut rest, mut entries) = (self.payload, Vec::new());
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk()?;
            let (entry, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            entries.push(entry);
            rest = after;
        }
        Some(entries)
    }
}
