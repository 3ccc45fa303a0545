//! Counter-based random numbers of one rollout. What they decide is up to schedules and samplers.

use std::fmt;

use types::{GroupId, Purpose, SampleIndex};

use crate::Schedule;

const KEY_CONTEXT: &str = "tandem rollout random key v1";

/// All randomness of one rollout. Every number is a hash of the key and a counter, so that it
/// depends neither on batching, nor on retries, nor on the order in which numbers are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RandomKey([u8; 32]);

impl RandomKey {
    /// The key of one sample of one group; the schedule enters by its written form.
    #[must_use]
    pub fn new(
        seed: u64,
        purpose: Purpose,
        schedule: &Schedule,
        group: GroupId,
        sample: SampleIndex,
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(&seed.to_le_bytes());
        for text in [purpose.name(), &schedule.to_string()] {
            // The length keeps two texts from sliding into each other.
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&group.0.to_le_bytes());
        hasher.update(&sample.0.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The author coin of a boundary, in [0, 1).
    #[must_use]
    pub fn coin(&self, boundary: u64) -> f64 {
        self.unit_interval(b"coin", boundary)
    }

    /// What the token at `position` of the response is sampled with, in [0, 1).
    #[must_use]
    pub fn uniform(&self, position: u64) -> f64 {
        self.unit_interval(b"tokn", position)
    }

    fn unit_interval(&self, domain: &[u8; 4], counter: u64) -> f64 {
        let mut message = [0; 12];
        message[..4].copy_from_slice(domain);
        message[4..].copy_from_slice(&counter.to_le_bytes());
        let hash = blake3::keyed_hash(&self.0, &message);
        let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        // 53 bits: all that a double in [0, 1) can hold evenly.
        (u64::from_le_bytes(*first) >> 11) as f64 * (0.5f64).powi(53)
    }
}

impl fmt::Debug for RandomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64, purpose: Purpose, schedule: &str, group: u64, sample: u32) -> RandomKey {
        let schedule = schedule.parse().unwrap();
        RandomKey::new(seed, purpose, &schedule, GroupId(group), SampleIndex(sample))
    }

    #[test]
    fn every_part_of_a_rollouts_name_changes_its_key() {
        let base = key(7, Purpose::Train, "word:0.25", 3, 1);
        assert_eq!(base, key(7, Purpose::Train, "word:0.250", 3, 1));
        let others = [
            key(8, Purpose::Train, "word:0.25", 3, 1),
            key(7, Purpose::Eval, "word:0.25", 3, 1),
            key(7, Purpose::Train, "word:0.5", 3, 1),
            key(7, Purpose::Train, "word:0.25", 4, 1),
            key(7, Purpose::Train, "word:0.25", 3, 2),
        ];
        for other in others {
            assert_ne!(base, other);
        }
        assert_eq!(RandomKey::from_bytes(base.bytes()), base);
    }

    #[test]
    fn numbers_are_fixed_for_all_time() {
        let key = RandomKey::from_bytes([1; 32]);
        let found = [key.coin(0), key.coin(1), key.uniform(0), key.uniform(1)];
        assert_eq!(found, GOLDEN);
    }

    /// Changing these numbers breaks the replay of every stored rollout.
    const GOLDEN: [f64; 4] =
        [0.8545560484138474, 0.003474228385153655, 0.12082372910716421, 0.09154287693705154];

    #[test]
    fn coins_and_uniforms_are_even_and_unrelated() {
        let key = RandomKey::from_bytes([9; 32]);
        let n = 20_000;
        let (mut coins, mut uniforms, mut products) = (0.0, 0.0, 0.0);
        for i in 0..n {
            let (c, u) = (key.coin(i), key.uniform(i));
            assert!((0.0..1.0).contains(&c) && (0.0..1.0).contains(&u));
            coins += c - 0.5;
            uniforms += u - 0.5;
            products += (c - 0.5) * (u - 0.5);
        }
        // Standard error of a mean of uniforms: 0.289/√n ≈ 0.002; of products: 0.083/√n ≈ 0.0006.
        let n = n as f64;
        assert!((coins / n).abs() < 0.01, "mean coin off by {}", coins / n);
        assert!((uniforms / n).abs() < 0.01, "mean uniform off by {}", uniforms / n);
        assert!((products / n).abs() < 0.003, "covariance {}", products / n);
    }
}
