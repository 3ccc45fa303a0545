//! TensorBoard's event files: their messages, as far as scalars need them, and the frames that they
//! stand in. Which events are written is `tensorboard`'s.
//!
//! A frame is the message's length, a checksum of it, the message, a checksum of that. Field numbers
//! are TensorFlow's.

use prost::Message;

/// The first event of every file.
const VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(double, tag = "1")]
    wall_seconds: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
    #[prost(message, optional, tag = "7")]
    session: Option<Session>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A session's status.
const START: i32 = 1;

impl Event {
    pub(super) fn version(at_ms: u64) -> Self {
        Self { file_version: Some(VERSION.to_owned()), ..Self::at(at_ms, 0) }
    }

    /// What readers have of this step and later ones is void.
    pub(super) fn purge(at_ms: u64, from_step: u32) -> Self {
        let session = Session { status: START };
        Self { session: Some(session), ..Self::at(at_ms, from_step) }
    }

    pub(super) fn scalars(at_ms: u64, step: u32, points: &[(String, f64)]) -> Self {
        let scalar =
            |(tag, value): &(String, f64)| Scalar { tag: tag.clone(), value: Some(*value as f32) };
        let summary = Scalars { values: points.iter().map(scalar).collect() };
        Self { summary: Some(summary), ..Self::at(at_ms, step) }
    }

    fn at(at_ms: u64, step: u32) -> Self {
        Self { wall_seconds: at_ms as f64 / 1e3, step: i64::from(step), ..Self::default() }
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        let message = self.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let mut frame = length.to_vec();
        frame.extend(masked(&length).to_le_bytes());
        frame.extend(&message);
        frame.extend(masked(&message).to_le_bytes());
        frame
    }
}

/// A checksum as these files have it: a checksum of data with checksums in it would be weak.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_tensorboard_expects_byte_for_byte() {
        // Put together by hand from TensorFlow's description of records and events.
        let check = |event: Event, expected: &str| assert_eq!(hex(&event.frame()), expected);
        check(
            Event::version(1_500),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e457665\
             6e743a322a28646c",
        );
        check(
            Event::purge(1_500, 3),
            "0f000000000000006d532b0909000000000000f83f10033a020801ec8612fc",
        );
        check(
            Event::scalars(1_500, 2, &[("train/loss".to_owned(), 0.25)]),
            "200000000000000029eda95009000000000000f83f10022a130a110a0a747261\
             696e2f6c6f7373150000803e18e873d5",
        );
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
