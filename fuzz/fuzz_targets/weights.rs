//! A version's chunks of any bytes, put together and checked against their manifest.

#![no_main]

// By path: the coordinator's other dependencies would cost minutes of building.
#[path = "../../coordinator/src/weight_store.rs"]
#[allow(dead_code, reason = "the store around the check is not of interest")]
mod weight_store;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::wire::coordinator::{WeightChunk, WeightManifest, weight_chunk::Kind};
use proto::{WeightAssembler, weight_chunks};
use types::Hash;
use weight_store::CheckedWeights;

const BYTES_MAX: u64 = 1 << 20;

// The input is a manifest's bytes, its length before it, and then the file's.
fuzz_target!(|data: &[u8]| {
    let mut assembler = WeightAssembler::new(BYTES_MAX);
    let mut rest = data;
    while let Ok(chunk) = WeightChunk::decode_length_delimited(&mut rest) {
        if assembler.push(chunk).is_err() {
            break;
        }
    }
    let _ = assembler.finish();

    let mut file = data;
    let Ok(mut manifest) = WeightManifest::decode_length_delimited(&mut file) else { return };
    // What cannot be guessed.
    manifest.hash = Hash::of(file).0.to_vec();
    manifest.bytes = file.len() as u64;
    let mut assembler = WeightAssembler::new(BYTES_MAX);
    let kinds = [Kind::Manifest(manifest), Kind::Data(file.to_vec())];
    let pushed: Result<Vec<()>, _> =
        kinds.map(|kind| assembler.push(WeightChunk { kind: Some(kind) })).into_iter().collect();
    if pushed.is_err() {
        return;
    }
    let (manifest, bytes) = assembler.finish().expect("length and hash are right");
    if let Ok(weights) = CheckedWeights::new(manifest, bytes) {
        let mut again = WeightAssembler::new(BYTES_MAX);
        for chunk in weight_chunks(weights.manifest.clone(), weights.clone()) {
            again.push(chunk).expect("our own chunks are in order");
        }
        let (manifest, bytes) = again.finish().expect("our own chunks are whole");
        assert_eq!((&manifest, bytes.as_slice()), (&weights.manifest, weights.as_ref()));
    }
});
