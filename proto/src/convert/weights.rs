//! Weights in chunks: a manifest first, then bytes, verified as a whole before anyone uses them.

use types::{Dtype, Hash, PolicyVersion, TensorInfo, WeightManifest};

use super::{ConvertError, hash_bytes};
use crate::weight_files::WeightFiles;
use crate::wire::coordinator as wire;

/// Data of one message; below tonic's default message limit of 4 MB.
pub const CHUNK_BYTES: usize = 1 << 20;

impl From<WeightManifest> for wire::WeightManifest {
    fn from(m: WeightManifest) -> Self {
        let tensors = m.tensors.into_iter().map(|t| wire::TensorInfo {
            name: t.name,
            shape: t.shape,
            dtype: t.dtype.name().to_owned(),
        });
        Self {
            version: m.version.packed(),
            tensors: tensors.collect(),
            bytes: m.bytes,
            hash: m.hash.0.to_vec(),
        }
    }
}

impl TryFrom<wire::WeightManifest> for WeightManifest {
    type Error = ConvertError;

    fn try_from(m: wire::WeightManifest) -> Result<Self, ConvertError> {
        let tensors = m.tensors.into_iter().map(|t| {
            let dtype = Dtype::from_name(&t.dtype).ok_or(ConvertError::Missing("dtype"))?;
            Ok(TensorInfo { name: t.name, shape: t.shape, dtype })
        });
        Ok(Self {
            version: PolicyVersion::unpack(m.version),
            tensors: tensors.collect::<Result<_, ConvertError>>()?,
            bytes: m.bytes,
            hash: Hash(hash_bytes("hash", &m.hash)?),
        })
    }
}

/// The messages that carry one version, the manifest first. Each is cut when it is asked for, so
/// that `bytes` may be shared and large.
pub fn weight_chunks<B: AsRef<[u8]>>(
    manifest: WeightManifest,
    bytes: B,
) -> impl Iterator<Item = wire::WeightChunk> + use<B> {
    let first = wire::weight_chunk::Kind::Manifest(manifest.into());
    let starts = (0..bytes.as_ref().len()).step_by(CHUNK_BYTES);
    let rest = starts.map(move |start| {
        let bytes = bytes.as_ref();
        let end = bytes.len().min(start + CHUNK_BYTES);
        wire::weight_chunk::Kind::Data(bytes[start..end].to_vec())
    });
    std::iter::once(first).chain(rest).map(|kind| wire::WeightChunk { kind: Some(kind) })
}

/// The one message for a version whose bytes are in a file.
pub(crate) fn filed(manifest: WeightManifest) -> wire::WeightChunk {
    wire::WeightChunk { kind: Some(wire::weight_chunk::Kind::Filed(manifest.into())) }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightError {
    #[error("weights begin without a manifest")]
    NoManifest,
    #[error("weights {0} have a second manifest")]
    SecondManifest(PolicyVersion),
    #[error("weights {version} announce {bytes} bytes, more than the limit of {limit}")]
    TooLarge { version: PolicyVersion, bytes: u64, limit: u64 },
    #[error("weights {version} have {found} of {expected} bytes: the transfer was cut or overran")]
    Length { version: PolicyVersion, found: u64, expected: u64 },
    #[error("weights {version} hash to {found}, their manifest says {expected}: refused")]
    Hash { version: PolicyVersion, found: Hash, expected: Hash },
    #[error("weights {version} are in no file that is seen here: {fault}")]
    NoFile { version: PolicyVersion, fault: String },
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

/// Collects the chunks of one version.
#[derive(Debug)]
pub struct WeightAssembler {
    bytes_max: u64,
    files: Option<WeightFiles>,
    manifest: Option<WeightManifest>,
    filed: bool,
    bytes: Vec<u8>,
}

impl WeightAssembler {
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, files: None, manifest: None, filed: false, bytes: Vec::new() }
    }

    /// A version may come as a file, too.
    #[must_use]
    pub fn with_files(self, files: Option<WeightFiles>) -> Self {
        Self { files, ..self }
    }

    /// # Errors
    /// Chunks out of order, or more bytes than announced or allowed.
    pub fn push(&mut self, chunk: wire::WeightChunk) -> Result<(), WeightError> {
        match (chunk.kind.ok_or(ConvertError::Missing("kind"))?, &self.manifest) {
            (wire::weight_chunk::Kind::Manifest(m), None) => self.begin(m)?,
            (wire::weight_chunk::Kind::Filed(m), None) => {
                self.begin(m)?;
                self.filed = true;
            }
            (
                wire::weight_chunk::Kind::Manifest(_) | wire::weight_chunk::Kind::Filed(_),
                Some(m),
            ) => {
                return Err(WeightError::SecondManifest(m.version));
            }
            (wire::weight_chunk::Kind::Data(_), None) => return Err(WeightError::NoManifest),
            (wire::weight_chunk::Kind::Data(data), Some(m)) => {
                let found = (self.bytes.len() + data.len()) as u64;
                if found > m.bytes {
                    let (version, expected) = (m.version, m.bytes);
                    return Err(WeightError::Length { version, found, expected });
                }
                self.bytes.extend_from_slice(&data);
            }
        }
        Ok(())
    }

    fn begin(&mut self, manifest: wire::WeightManifest) -> Result<(), WeightError> {
        let manifest = WeightManifest::try_from(manifest)?;
        let WeightManifest { version, bytes, .. } = manifest;
        if bytes > self.bytes_max {
            return Err(WeightError::TooLarge { version, bytes, limit: self.bytes_max });
        }
        self.manifest = Some(manifest);
        Ok(())
    }

    /// # Errors
    /// Missing bytes, or another hash than the manifest's.
    pub fn finish(self) -> Result<(WeightManifest, Vec<u8>), WeightError> {
        let manifest = self.manifest.ok_or(WeightError::NoManifest)?;
        if self.filed {
            let version = manifest.version;
            let no_file = |fault: String| WeightError::NoFile { version, fault };
            let files = self.files.ok_or_else(|| no_file("none are shared".to_owned()))?;
            let bytes = files.take(&manifest).map_err(|error| no_file(error.to_string()))?;
            return Ok((manifest, bytes));
        }
        let WeightManifest { version, bytes: expected, hash, .. } = manifest;
        let found = self.bytes.len() as u64;
        if found != expected {
            return Err(WeightError::Length { version, found, expected });
        }
        let actual = Hash::of(&self.bytes);
        if actual != hash {
            return Err(WeightError::Hash { version, found: actual, expected: hash });
        }
        Ok((manifest, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(bytes: &[u8]) -> WeightManifest {
        let tensor = TensorInfo { name: "w".into(), shape: vec![2], dtype: Dtype::F32 };
        WeightManifest {
            version: PolicyVersion::new(1, 3),
            tensors: vec![tensor],
            bytes: bytes.len() as u64,
            hash: Hash::of(bytes),
        }
    }

    fn assemble(
        chunks: impl Iterator<Item = wire::WeightChunk>,
    ) -> Result<(WeightManifest, Vec<u8>), WeightError> {
        let mut assembler = WeightAssembler::new(1 << 30);
        for chunk in chunks {
            assembler.push(chunk)?;
        }
        assembler.finish()
    }

    #[test]
    fn bytes_arrive_whole_and_damage_is_refused() {
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 5).map(|i| (i % 251) as u8).collect();
        let chunks: Vec<_> = weight_chunks(manifest(&bytes), &bytes).collect();
        assert_eq!(chunks.len(), 5);
        assert_eq!(
            assemble(chunks.clone().into_iter()).unwrap(),
            (manifest(&bytes), bytes.clone())
        );

        let torn = assemble(chunks.clone().into_iter().take(3));
        assert!(matches!(torn, Err(WeightError::Length { .. })));
        let mut swapped = chunks.clone();
        swapped.swap(1, 2);
        assert!(matches!(assemble(swapped.into_iter()), Err(WeightError::Hash { .. })));
        assert_eq!(assemble(chunks.into_iter().skip(1)).unwrap_err(), WeightError::NoManifest);
    }

    /// What may happen to the chunks of one transfer.
    #[derive(Clone, Debug)]
    enum Damage {
        Flipped { chunk: usize, byte: usize, bit: u8 },
        Truncated { chunk: usize, to: usize },
        Lost { chunk: usize },
        Repeated { chunk: usize },
        Swapped { chunk: usize },
    }

    fn damage() -> impl Strategy<Value = Damage> {
        let at = || any::<prop::sample::Index>();
        prop_oneof![
            (at(), at(), 0_u8..8).prop_map(|(c, b, bit)| Damage::Flipped {
                chunk: c.index(3),
                byte: b.index(CHUNK_BYTES),
                bit
            }),
            (at(), at()).prop_map(|(c, to)| Damage::Truncated {
                chunk: c.index(3),
                to: to.index(CHUNK_BYTES)
            }),
            at().prop_map(|c| Damage::Lost { chunk: c.index(3) }),
            at().prop_map(|c| Damage::Repeated { chunk: c.index(3) }),
            at().prop_map(|c| Damage::Swapped { chunk: c.index(2) }),
        ]
    }

    fn apply(damage: &Damage, data: &mut Vec<Vec<u8>>) {
        match *damage {
            Damage::Flipped { chunk, byte, bit } => data[chunk][byte] ^= 1 << bit,
            Damage::Truncated { chunk, to } => data[chunk].truncate(to),
            Damage::Lost { chunk } => drop(data.remove(chunk)),
            Damage::Repeated { chunk } => data.insert(chunk, data[chunk].clone()),
            Damage::Swapped { chunk } => data.swap(chunk, chunk + 1),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn row_16_no_damaged_transfer_is_taken(damage in damage()) {
            // No two chunks are alike, nor two bytes in a row.
            let bytes: Vec<u8> = (0..3 * CHUNK_BYTES).map(|i| (i % 251) as u8).collect();
            let mut data: Vec<_> = bytes.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
            apply(&damage, &mut data);
            let first = weight_chunks(manifest(&bytes), []).next().unwrap();
            let data = data.into_iter().map(|data| wire::WeightChunk {
                kind: Some(wire::weight_chunk::Kind::Data(data)),
            });
            let found = assemble(std::iter::once(first).chain(data));
            let refused =
                matches!(found, Err(WeightError::Length { .. } | WeightError::Hash { .. }));
            prop_assert!(refused, "{damage:?}");
        }
    }

    #[test]
    fn an_announcement_over_the_limit_is_refused_before_any_byte() {
        let mut assembler = WeightAssembler::new(4);
        let chunk = weight_chunks(manifest(&[0; 5]), []).next().unwrap();
        assert!(matches!(assembler.push(chunk), Err(WeightError::TooLarge { limit: 4, .. })));
    }
}
