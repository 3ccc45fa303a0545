//! Which groups a step is made of on all ranks together, by id and number, so that a group that is
//! there twice or not at all is seen. Whether that may be is the coordinator's to say.

use types::{GroupId, RolloutGroup};

use crate::assembler::Counts;
use crate::collective::Collective;

/// Over all ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Ascending; one that several ranks have is here as often.
    pub(crate) groups: Vec<GroupId>,
    pub(crate) counts: Counts,
}

impl Census {
    /// `first` is the step's first group, `len` how many it has. Every rank has to call it.
    ///
    /// # Errors
    /// A rank is gone.
    pub(crate) fn take(
        groups: &[RolloutGroup],
        (first, len): (u64, u64),
        counts: Counts,
        collective: &mut dyn Collective,
    ) -> anyhow::Result<Self> {
        let mut slots = vec![0.0; len as usize];
        for group in groups {
            let place = group.group.0.checked_sub(first).map(|place| place as usize);
            let slot = place.and_then(|place| slots.get_mut(place));
            *slot.ok_or_else(|| anyhow::anyhow!("group {} is of another step", group.group))? +=
                1.0;
        }
        slots.extend([counts.stale, counts.duplicates, counts.replaced].map(f64::from));
        collective.all_reduce_sum_f64(&mut slots)?;
        let (of_groups, sums) = slots.split_at(len as usize);
        let times = |(place, count): (u64, &f64)| {
            std::iter::repeat_n(GroupId(first + place), *count as usize)
        };
        Ok(Self {
            groups: (0..).zip(of_groups).flat_map(times).collect(),
            counts: Counts {
                stale: sums[0] as u32,
                duplicates: sums[1] as u32,
                replaced: sums[2] as u32,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collective::Solo;
    use crate::collective::fixtures::{on_ranks, plans};
    use crate::fixtures::Miniature;

    #[test]
    fn the_groups_of_all_ranks_are_counted() {
        let world = Miniature::small();
        let counts = Counts { stale: 1, duplicates: 0, replaced: 2 };
        let found = on_ranks(plans(2, Duration::from_secs(20)), |mut ring| {
            // Both have group 5, nobody has group 7.
            let own = [world.group(5, 0), world.group(4 + 2 * ring.rank() as u64, 0)];
            Census::take(&own, (4, 4), counts, &mut ring).unwrap()
        });
        let expected = Census {
            groups: [4, 5, 5, 6].map(GroupId).into(),
            counts: Counts { stale: 2, duplicates: 0, replaced: 4 },
        };
        assert_eq!(found, [expected.clone(), expected]);
    }

    #[test]
    fn a_group_of_another_step_is_named() {
        let world = Miniature::small();
        let mut solo = Solo::new(types::Generation(1));
        for id in [3, 8] {
            let groups = [world.group(id, 0)];
            let taken = Census::take(&groups, (4, 4), Counts::default(), &mut solo);
            let error = taken.unwrap_err().to_string();
            assert_eq!(error, format!("group {id} is of another step"));
        }
    }
}
