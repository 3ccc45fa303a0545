//! The order in which problems are dealt: a seeded permutation per epoch, cut into shards.
//! A position always means the same problem, so that nothing about the order needs storing.

/// Where one position of the run's sequence falls: what data progress is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub epoch: u64,
    /// Within the epoch.
    pub shard: u64,
    /// Shards begun by then, this one and those of earlier epochs included.
    pub shards_begun: u64,
}

/// Deals the problems of a source.
#[derive(Clone, Debug)]
pub struct Dealer {
    seed: u64,
    /// Names the orders: each name has its own.
    name: &'static str,
    /// `None`: the source makes as many as are asked for, and the one epoch never ends.
    problems: Option<u64>,
    shard_problems: u64,
    /// The order of the last epoch asked for.
    order: Option<(u64, Vec<u64>)>,
}

impl Dealer {
    /// # Panics
    /// With a source of no problems or shards of no problems.
    #[must_use]
    pub fn new(seed: u64, problems: Option<u64>, shard_problems: u32) -> Self {
        assert!(problems != Some(0), "a source has at least one problem");
        assert!(shard_problems > 0, "a shard has at least one problem");
        let shard_problems = u64::from(shard_problems);
        Self { seed, name: "epoch", problems, shard_problems, order: None }
    }

    /// The same problems in other orders.
    #[must_use]
    pub fn ordered_by(self, name: &'static str) -> Self {
        Self { name, order: None, ..self }
    }

    /// Deals that many problems from now on.
    pub fn resize(&mut self, problems: u64) {
        (self.problems, self.order) = (Some(problems), None);
    }

    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        let size = self.shard_problems;
        let Some(problems) = self.problems else {
            let shard = position / size;
            return Place { epoch: 0, shard, shards_begun: shard + 1 };
        };
        let (epoch, shard) = (position / problems, position % problems / size);
        Place { epoch, shard, shards_begun: epoch * problems.div_ceil(size) + shard + 1 }
    }

    /// Which problem of the source stands at a position.
    pub fn ordinal(&mut self, position: u64) -> u64 {
        let Some(problems) = self.problems else { return position };
        let (epoch, within) = (position / problems, position % problems);
        if self.order.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.order = Some((epoch, permutation(self.seed, self.name, epoch, problems)));
        }
        let (_, order) = self.order.as_ref().expect("it was made above");
        order[within as usize]
    }
}

/// 0..count in an order drawn from (seed, name, index): Fisher and Yates, by Durstenfeld (1964).
#[must_use]
pub fn permutation(seed: u64, name: &str, index: u64, count: u64) -> Vec<u64> {
    let mut hasher = blake3::Hasher::new_derive_key("tandem coordinator permutation v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut draws = hasher.finalize_xof();
    let mut order: Vec<u64> = (0..count).collect();
    for last in (1..order.len()).rev() {
        let mut bytes = [0; 8];
        draws.fill(&mut bytes);
        // The high half of the product lies evenly in 0..=last, but for 2⁻⁶⁴ × count.
        let chosen = (u128::from(u64::from_le_bytes(bytes)) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_epoch_deals_each_problem_once_in_full_shards() {
        let mut dealer = Dealer::new(3, Some(1000), 256);
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let positions = epoch * 1000..(epoch + 1) * 1000;
            let places: Vec<Place> = positions.clone().map(|i| dealer.place(i)).collect();
            assert!(places.iter().all(|place| place.epoch == epoch));
            let of_shard = |s| places.iter().filter(|place| place.shard == s).count();
            assert_eq!([0, 1, 2, 3, 4].map(of_shard), [256, 256, 256, 232, 0]);
            assert_eq!(places[0].shards_begun, epoch * 4 + 1);
            assert_eq!(places[999].shards_begun, epoch * 4 + 4);
            let order: Vec<u64> = positions.map(|i| dealer.ordinal(i)).collect();
            let ordinals: BTreeSet<u64> = order.iter().copied().collect();
            assert_eq!((ordinals.len(), ordinals.last()), (1000, Some(&999)));
            orders.push(order);
        }
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[0], (0..1000).collect::<Vec<_>>());
        assert_eq!(dealer.ordinal(1_007), orders[1][7], "going back is possible");
    }

    #[test]
    fn orders_of_another_name_deal_each_problem_once_too() {
        let own = Dealer::new(3, Some(50), 8);
        let mut other = own.clone().ordered_by("other");
        let mut own = own;
        let order = |dealer: &mut Dealer| (0..50).map(|i| dealer.ordinal(i)).collect::<Vec<_>>();
        let (own, mut other) = (order(&mut own), order(&mut other));
        assert_ne!(own, other);
        other.sort_unstable();
        assert_eq!(other, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn orders_follow_the_seed() {
        assert_eq!(permutation(1, "a", 0, 50), permutation(1, "a", 0, 50));
        assert_ne!(permutation(1, "a", 0, 50), permutation(2, "a", 0, 50));
        assert_ne!(permutation(1, "a", 0, 50), permutation(1, "b", 0, 50));
    }

    #[test]
    fn permutations_of_three_are_even() {
        let mut counts = std::collections::BTreeMap::new();
        for index in 0..6_000 {
            *counts.entry(permutation(0, "even", index, 3)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|n| (880..1_120).contains(n)), "{counts:?}");
    }

    #[test]
    fn an_endless_source_is_dealt_in_its_own_order() {
        let mut dealer = Dealer::new(3, None, 256);
        assert_eq!(dealer.ordinal(600), 600);
        assert_eq!(dealer.place(600), Place { epoch: 0, shard: 2, shards_begun: 3 });
    }
}
