//! Room for the next checkpoint. Pure: what is there and what is missing comes in, what may go
//! before the next one is written comes out.

/// Which checkpoints go, so that `missing` bytes become free: the oldest of those that the next one
/// would replace in the end, and never the last good one. `committed` are steps and sizes, oldest
/// first. None where that is not enough; nothing is to be deleted then.
pub(super) fn make(missing: u64, committed: &[(u32, u64)], keep: usize) -> Option<Vec<u32>> {
    let stay = keep.saturating_sub(1).max(1);
    let mut replaced = committed.iter().take(committed.len().saturating_sub(stay));
    let (mut gained, mut go) = (0, Vec::new());
    while gained < missing {
        let (step, bytes) = replaced.next()?;
        gained += bytes;
        go.push(*step);
    }
    Some(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_next_one_replaces_goes_and_only_if_it_helps() {
        let there = [(10, 100), (20, 100), (30, 100)];
        let cases: [(u64, usize, Option<&[u32]>); 8] = [
            (0, 3, Some(&[])),
            (1, 3, Some(&[10])),
            (100, 3, Some(&[10])),
            (101, 3, None),
            (101, 2, Some(&[10, 20])),
            (201, 2, None),
            // The last one stays, also where only one is to be kept.
            (200, 1, Some(&[10, 20])),
            (201, 1, None),
        ];
        for (missing, keep, expected) in cases {
            let found = make(missing, &there, keep);
            assert_eq!(found.as_deref(), expected, "{missing} missing, {keep} kept");
        }
        assert_eq!(make(1, &[(10, 100)], 1), None);
        assert_eq!(make(1, &[], 3), None);
    }
}
