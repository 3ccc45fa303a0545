//! The last policy versions as hashed bytes, checked before anyone may fetch them. What the
//! numbers in them mean is unknown here; that they are numbers is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype as FileDtype;
use types::{Dtype, Hash, PolicyVersion, TensorInfo, WeightManifest, check_header};

/// One version, checked, and shared with everyone who fetches it.
#[derive(Clone, Debug)]
pub struct CheckedWeights {
    pub manifest: WeightManifest,
    bytes: Arc<Vec<u8>>,
}

impl CheckedWeights {
    /// Reads every byte: no work for an async worker, or under a lock.
    ///
    /// # Errors
    /// Bytes that are torn, damaged or not what the manifest says.
    pub fn new(manifest: WeightManifest, bytes: Vec<u8>) -> Result<Self, WeightStoreError> {
        check(&manifest, &bytes)?;
        Ok(Self { manifest, bytes: Arc::new(bytes) })
    }
}

impl AsRef<[u8]> for CheckedWeights {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WeightStoreError {
    #[error("weights {version} have {found} of {expected} bytes: the transfer was cut")]
    Length { version: PolicyVersion, found: u64, expected: u64 },
    #[error("weights {version} hash to {found}, their manifest says {expected}: refused")]
    Hash { version: PolicyVersion, found: Hash, expected: Hash },
    #[error("weights {version} are not a safetensors file: {fault}")]
    Format { version: PolicyVersion, fault: String },
    #[error("weights {version}: {fault}, against their manifest")]
    Tensors { version: PolicyVersion, fault: String },
    #[error(
        "weights {version}: tensor {tensor} holds a NaN or infinity at element {index}: refused, go \
         on from an older checkpoint"
    )]
    NotFinite { version: PolicyVersion, tensor: String, index: usize },
    #[error("weights {version} are not the run's model: {fault}, against version {current}")]
    Model { version: PolicyVersion, current: PolicyVersion, fault: String },
    #[error("weights {found} are not newer than {current}: refused")]
    Order { found: PolicyVersion, current: PolicyVersion },
    #[error("weights {version} are not kept; the versions here are {kept}")]
    Gone { version: PolicyVersion, kept: String },
}

/// Bounded: storing a version lets go of the oldest beyond the limit.
#[derive(Debug)]
pub struct WeightStore {
    kept_max: usize,
    versions: BTreeMap<PolicyVersion, CheckedWeights>,
}

impl WeightStore {
    #[must_use]
    pub fn new(kept_max: u32) -> Self {
        Self { kept_max: kept_max.max(1) as usize, versions: BTreeMap::new() }
    }

    /// Stores a version. False for the repetition of the newest.
    ///
    /// # Errors
    /// A version that is not newer than all others, or of another model; nothing changes then.
    pub fn insert(&mut self, weights: CheckedWeights) -> Result<bool, WeightStoreError> {
        let version = weights.manifest.version;
        if let Some((current, newest)) = self.versions.last_key_value() {
            if version == *current && newest.manifest.hash == weights.manifest.hash {
                return Ok(false);
            }
            let current = *current;
            if version <= current {
                return Err(WeightStoreError::Order { found: version, current });
            }
            let same = compare(&weights.manifest.tensors, &newest.manifest.tensors);
            same.map_err(|fault| WeightStoreError::Model { version, current, fault })?;
        }
        self.versions.insert(version, weights);
        while self.versions.len() > self.kept_max {
            self.versions.pop_first();
        }
        Ok(true)
    }

    /// # Errors
    /// A version that is not kept any more, or never was.
    pub fn get(&self, version: PolicyVersion) -> Result<CheckedWeights, WeightStoreError> {
        self.versions.get(&version).cloned().ok_or_else(|| {
            let kept: Vec<String> = self.versions.keys().map(ToString::to_string).collect();
            WeightStoreError::Gone { version, kept: kept.join(", ") }
        })
    }

    /// Of all kept versions.
    #[must_use]
    pub fn manifests(&self) -> Vec<WeightManifest> {
        self.versions.values().map(|stored| stored.manifest.clone()).collect()
    }

    /// Of all kept versions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.versions.values().map(|stored| stored.bytes.len() as u64).sum()
    }
}

/// The manifest of a safetensors file, for weights that no learner published.
///
/// # Errors
/// Bytes that are no safetensors file, or element types that do not travel.
pub fn manifest_of(
    version: PolicyVersion,
    bytes: &[u8],
) -> Result<WeightManifest, WeightStoreError> {
    let tensors = infos(version, &open(version, bytes)?)?;
    Ok(WeightManifest { version, tensors, bytes: bytes.len() as u64, hash: Hash::of(bytes) })
}

fn check(manifest: &WeightManifest, bytes: &[u8]) -> Result<(), WeightStoreError> {
    let WeightManifest { version, bytes: expected, .. } = *manifest;
    let found = bytes.len() as u64;
    if found != expected {
        return Err(WeightStoreError::Length { version, found, expected });
    }
    let found = Hash::of(bytes);
    if found != manifest.hash {
        return Err(WeightStoreError::Hash { version, found, expected: manifest.hash });
    }
    let file = open(version, bytes)?;
    let found = infos(version, &file)?;
    compare(&found, &manifest.tensors)
        .map_err(|fault| WeightStoreError::Tensors { version, fault })?;
    for TensorInfo { name, dtype, .. } in &found {
        let view = file.tensor(name).expect("it was listed by this file");
        if let Some(index) = dtype.first_not_finite(view.data()) {
            let tensor = name.clone();
            return Err(WeightStoreError::NotFinite { version, tensor, index });
        }
    }
    Ok(())
}

fn compare(found: &[TensorInfo], expected: &[TensorInfo]) -> Result<(), String> {
    let (found, expected) = (by_name(found), by_name(expected));
    for (f, e) in found.iter().zip(&expected) {
        if f.name != e.name {
            return Err(format!("they hold tensor {} where {} is expected", f.name, e.name));
        }
        if f != e {
            let TensorInfo { name, shape, dtype } = f;
            let (wanted, kind) = (&e.shape, e.dtype.name());
            let dtype = dtype.name();
            return Err(format!("tensor {name} is {shape:?} {dtype}, not {wanted:?} {kind}"));
        }
    }
    if found.len() != expected.len() {
        return Err(format!("they hold {} tensors, not {}", found.len(), expected.len()));
    }
    Ok(())
}

fn by_name(tensors: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

fn open(version: PolicyVersion, bytes: &[u8]) -> Result<SafeTensors<'_>, WeightStoreError> {
    let format = |fault: String| WeightStoreError::Format { version, fault };
    check_header(bytes).map_err(|fault| format(fault.to_string()))?;
    SafeTensors::deserialize(bytes).map_err(|error| format(error.to_string()))
}

/// In the order of names.
fn infos(
    version: PolicyVersion,
    file: &SafeTensors<'_>,
) -> Result<Vec<TensorInfo>, WeightStoreError> {
    let format = |fault: String| WeightStoreError::Format { version, fault };
    let tensors = file.iter().map(|(name, view)| {
        let dtype = match view.dtype() {
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            other => {
                return Err(format(format!("tensor {name} is {other:?}, not f32, f16 or bf16")));
            }
        };
        let shape = view.shape().iter().map(|n| *n as u64).collect();
        Ok(TensorInfo { name: name.to_owned(), shape, dtype })
    });
    let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use miniature::{TensorSpec, random_safetensors};

    use super::*;

    fn checked(step: u32, seed: u64) -> CheckedWeights {
        let (manifest, bytes) = weights(step, seed);
        CheckedWeights::new(manifest, bytes).unwrap()
    }

    fn weights(step: u32, seed: u64) -> (WeightManifest, Vec<u8>) {
        let specs = [TensorSpec::new("a", &[4, 3], 0.0, 1.0), TensorSpec::new("b", &[3], 1.0, 0.0)];
        let bytes = random_safetensors(&specs, seed).unwrap();
        (manifest_of(PolicyVersion::new(1, step), &bytes).unwrap(), bytes)
    }

    fn refused(manifest: WeightManifest, bytes: Vec<u8>) -> String {
        CheckedWeights::new(manifest, bytes).unwrap_err().to_string()
    }

    #[test]
    fn the_last_versions_stay_and_order_is_kept() {
        let mut store = WeightStore::new(2);
        for step in 0..3 {
            let weights = checked(step, u64::from(step));
            assert!(store.insert(weights.clone()).unwrap());
            assert!(!store.insert(weights).unwrap(), "a repetition changes nothing");
        }
        let gone = store.get(PolicyVersion::new(1, 0)).unwrap_err().to_string();
        assert_eq!(gone, "weights g1s0 are not kept; the versions here are g1s1, g1s2");
        let (manifest, bytes) = weights(2, 2);
        let stored = store.get(manifest.version).unwrap();
        assert_eq!((&stored.manifest, stored.as_ref()), (&manifest, &*bytes));
        let text = store.insert(checked(1, 9)).unwrap_err().to_string();
        assert_eq!(text, "weights g1s1 are not newer than g1s2: refused");
    }

    #[test]
    fn damaged_torn_and_mislabelled_weights_are_refused() {
        let (manifest, bytes) = weights(0, 0);
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(refused(manifest.clone(), damaged).contains("hash to"));
        let torn = bytes[..bytes.len() - 4].to_vec();
        assert!(refused(manifest.clone(), torn.clone()).contains("the transfer was cut"));

        let relabelled =
            WeightManifest { bytes: torn.len() as u64, hash: Hash::of(&torn), ..manifest.clone() };
        assert!(refused(relabelled, torn).contains("not a safetensors file"));

        let mut other = manifest.clone();
        other.tensors[0].shape = vec![3, 4];
        assert!(refused(other, bytes.clone()).contains("is [4, 3] f32, not [3, 4] f32"));
        let mut other = manifest.clone();
        other.tensors.pop();
        assert!(refused(other, bytes.clone()).contains("2 tensors, not 1"));
        let mut other = manifest;
        other.tensors[1].name = "c".to_owned();
        assert!(refused(other, bytes).contains("where"));
    }

    #[test]
    fn row_17_numbers_that_are_none_and_other_models_are_refused() {
        let of = |step: u32, bytes: Vec<u8>| {
            (manifest_of(PolicyVersion::new(1, step), &bytes).unwrap(), bytes)
        };
        let (_, bytes) = weights(0, 0);
        let end = bytes.len();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = bytes.clone();
            broken[end - 4..].copy_from_slice(&bad.to_le_bytes());
            let (manifest, broken) = of(0, broken);
            let text = refused(manifest, broken);
            assert!(text.contains("tensor b holds a NaN or infinity at element 2"), "{text}");
        }
        let mut store = WeightStore::new(3);
        store.insert(checked(0, 0)).unwrap();
        let other = |specs: &[TensorSpec]| {
            let (manifest, bytes) = of(1, random_safetensors(specs, 1).unwrap());
            CheckedWeights::new(manifest, bytes).unwrap()
        };
        let (a, b) =
            (TensorSpec::new("a", &[4, 3], 0.0, 1.0), TensorSpec::new("b", &[3], 1.0, 0.0));
        let turned = TensorSpec::new("a", &[3, 4], 0.0, 1.0);
        for (specs, fault) in [
            (vec![turned, b.clone()], "tensor a is [3, 4] f32, not [4, 3] f32"),
            (vec![a.clone()], "they hold 1 tensors, not 2"),
            (vec![a, TensorSpec::new("c", &[3], 1.0, 0.0)], "they hold tensor c where b"),
        ] {
            let text = store.insert(other(&specs)).unwrap_err().to_string();
            assert!(text.starts_with("weights g1s1 are not the run's model"), "{text}");
            assert!(text.contains(fault) && text.contains("against version g1s0"), "{text}");
        }
        assert!(store.get(PolicyVersion::new(1, 1)).is_err(), "nothing was stored");
        assert!(store.insert(checked(1, 7)).unwrap(), "the same model is taken");
    }
}
