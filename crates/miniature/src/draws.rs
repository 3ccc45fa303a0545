//! Streams of random numbers, each a function of its name alone. What is drawn is not decided here.

use blake3::OutputReader;

const CONTEXT: &str = "tandem miniature random stream v1";

/// A stream named by numbers and texts; streams of different names are independent.
pub(crate) struct Draws(OutputReader);

impl Draws {
    pub(crate) fn new(seed: u64, name: &str, index: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&seed.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.update(name.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// In [0, 1), 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (0.5f64).powi(53)
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// From `first` to `last`, both included.
    pub(crate) fn between(&mut self, first: u32, last: u32) -> u32 {
        let count = f64::from(last - first + 1);
        first + (self.uniform() * count) as u32
    }

    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.between(0, from.len() as u32 - 1) as usize]
    }

    /// Two independent standard normal deviates (Box and Muller, 1958).
    pub(crate) fn normals(&mut self) -> [f64; 2] {
        // 1 − u lies in (0, 1], whose logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        [radius * cos, radius * sin]
    }

    fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named() {
        let first = |seed, name, index| Draws::new(seed, name, index).bits();
        assert_eq!(first(1, "a", 2), first(1, "a", 2));
        assert_ne!(first(1, "a", 2), first(2, "a", 1));
        assert_ne!(first(1, "a", 2), first(1, "b", 2));
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal() {
        let mut draws = Draws::new(0, "test", 0);
        let deviates: Vec<f64> = (0..50_000).flat_map(|_| draws.normals()).collect();
        let moment = |k| deviates.iter().map(|x| x.powi(k)).sum::<f64>() / deviates.len() as f64;
        assert!(moment(1).abs() < 0.02, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.2, "{}", moment(4));
    }

    #[test]
    fn between_reaches_both_ends_evenly() {
        let mut draws = Draws::new(0, "test", 0);
        let mut counts = [0; 4];
        (0..4_000).for_each(|_| counts[draws.between(2, 5) as usize - 2] += 1);
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
