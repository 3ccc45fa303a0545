//! Numbers that nobody else has.

use std::hash::{BuildHasher, RandomState};

/// A number that no other process, and no other call here, has drawn; from the system's randomness.
#[must_use]
pub fn unique_number() -> u64 {
    RandomState::new().hash_one("unique")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_differ_from_call_to_call() {
        let drawn: BTreeSet<u64> = (0..1000).map(|_| unique_number()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
