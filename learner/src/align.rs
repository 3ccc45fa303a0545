//! From which state the ranks of a new generation go on. Pure: what each rank has in hand comes in,
//! who hands what to whom goes out.

use types::PolicyVersion;

/// How all ranks come to one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// All have the same already.
    Keep,
    /// This rank's is handed to all.
    From(usize),
    /// The newest checkpoint that is not ahead of the last commit, or the run's start.
    Checkpoint,
}

impl Alignment {
    /// `offers` are what the ranks have: the generation in which they last agreed and the steps
    /// taken; none where that is lost. With a sharded optimiser no rank has all of it.
    pub(crate) fn of(offers: &[Option<PolicyVersion>], committed: u32, sharded: bool) -> Self {
        let current = |offer: &Option<PolicyVersion>| offer.filter(|at| at.step == committed);
        let latest = offers.iter().filter_map(current).max();
        let Some(latest) = latest else { return Self::Checkpoint };
        if offers.iter().all(|offer| *offer == Some(latest)) {
            return Self::Keep;
        }
        let holder = offers.iter().position(|offer| *offer == Some(latest));
        match holder {
            Some(rank) if !sharded => Self::From(rank),
            _ => Self::Checkpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(generation: u32, step: u32) -> Option<PolicyVersion> {
        Some(PolicyVersion::new(generation, step))
    }

    #[test]
    fn ranks_go_on_from_what_is_committed() {
        let cases = [
            ("a fresh run", vec![at(0, 0), at(0, 0)], 0, Alignment::Keep),
            ("a step that failed for all", vec![at(1, 7), at(1, 7)], 7, Alignment::Keep),
            ("a rank came anew", vec![at(1, 7), at(0, 0)], 7, Alignment::From(0)),
            ("rank 0 came anew", vec![at(0, 0), at(3, 7), at(3, 7)], 7, Alignment::From(1)),
            ("one has finished the step", vec![at(1, 8), at(1, 7)], 8, Alignment::From(0)),
            ("one is ahead of the commit", vec![at(1, 7), at(1, 8)], 7, Alignment::From(0)),
            ("one was away for a generation", vec![at(2, 7), at(1, 7)], 7, Alignment::From(0)),
            ("before the first step", vec![at(1, 0), at(0, 0)], 0, Alignment::From(0)),
            ("all came anew", vec![at(0, 0), at(0, 0)], 7, Alignment::Checkpoint),
            ("one is left with half a step", vec![None, at(0, 0)], 7, Alignment::Checkpoint),
            ("alone and ahead of the commit", vec![at(1, 8)], 7, Alignment::Checkpoint),
            ("alone", vec![at(1, 8)], 8, Alignment::Keep),
        ];
        for (what, offers, committed, expected) in cases {
            assert_eq!(Alignment::of(&offers, committed, false), expected, "{what}");
        }
    }

    #[test]
    fn parts_of_an_optimiser_are_not_handed_over() {
        let both = [at(1, 7), at(1, 7)];
        assert_eq!(Alignment::of(&both, 7, true), Alignment::Keep);
        assert_eq!(Alignment::of(&[at(1, 7), at(0, 0)], 7, true), Alignment::Checkpoint);
    }
}
