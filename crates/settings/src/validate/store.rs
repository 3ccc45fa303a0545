//! Rules about the store. Whether it is there is seen when it is opened.

use crate::schema::Settings;

/// S3 takes no smaller part of a file, and no larger one.
const PART_BYTES: std::ops::RangeInclusive<u64> = (5 << 20)..=(5 << 30);

pub(super) fn faults(s: &Settings, faults: &mut Vec<String>) {
    faults.extend(s.store.place().err());
    if s.weights.store && s.store.url.is_empty() {
        faults.push("weights.store is on but store.url is empty: give a store".to_owned());
    }
    let part = s.store.part_bytes;
    if !PART_BYTES.contains(&part) {
        let (least, most) = (PART_BYTES.start(), PART_BYTES.end());
        faults.push(format!("store.part_bytes is {part} but must be from {least} to {most}"));
    }
}
