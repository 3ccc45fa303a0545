//! What a set of weights is, without its bytes: names, shapes, types and hashes.

use std::fmt;
use std::io;

use crate::PolicyVersion;

/// BLAKE3 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Of all that `reader` has to give, piece by piece.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn of_reader(reader: impl io::Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(reader)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Element types that travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Index of the first element, in little-endian bytes, that is a NaN or infinite.
    #[must_use]
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        // Not finite is exactly what has all bits of the exponent set.
        let half = |mask: u16| {
            let mut elements = bytes.as_chunks().0.iter();
            elements.position(|element| u16::from_le_bytes(*element) & mask == mask)
        };
        match self {
            Self::F16 => half(0x7c00),
            Self::Bf16 => half(0x7f80),
            Self::F32 => {
                let mut elements = bytes.as_chunks().0.iter();
                elements.position(|element| !f32::from_le_bytes(*element).is_finite())
            }
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|d| d.name() == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub shape: Vec<u64>,
    pub dtype: Dtype,
}

/// Announces one policy version; the bytes follow in chunks and must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightManifest {
    pub version: PolicyVersion,
    pub tensors: Vec<TensorInfo>,
    /// Length of the safetensors file, bytes.
    pub bytes: u64,
    /// Of the whole safetensors file.
    pub hash: Hash,
}

impl WeightManifest {
    /// Of the version as a file. It follows from the manifest, so that no name ever travels.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}-{}.safetensors", self.version, &self.hash.to_string()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_that_is_none_is_found_in_every_type() {
        let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let whole = f32s(&[0.0, -1.5, f32::MAX, f32::MIN_POSITIVE]);
        assert_eq!(Dtype::F32.first_not_finite(&whole), None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Dtype::F32.first_not_finite(&f32s(&[1.0, 2.0, bad])), Some(2));
        }
        let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        // One, the largest number, then infinity and a NaN.
        assert_eq!(Dtype::F16.first_not_finite(&u16s(&[0x3c00, 0x7bff])), None);
        assert_eq!(Dtype::F16.first_not_finite(&u16s(&[0x3c00, 0x7c00])), Some(1));
        assert_eq!(Dtype::F16.first_not_finite(&u16s(&[0xfc01])), Some(0));
        assert_eq!(Dtype::Bf16.first_not_finite(&u16s(&[0x3f80, 0x7f7f])), None);
        assert_eq!(Dtype::Bf16.first_not_finite(&u16s(&[0x3f80, 0xff80, 0x7fc0])), Some(1));
    }
}
