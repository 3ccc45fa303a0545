//! What fits into one message: groups by their encoded size. A group that fits into none is given
//! up with the way out, since sending it again would break every connection anew.

use proto::ReturnReason;
use types::RolloutGroup;

use crate::handover::FailedGroup;

/// A report's own bytes, and those around each of its groups.
const FRAME_BYTES: usize = 16;

/// What one report may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportLimits {
    pub(crate) groups: usize,
    /// `limits.message_bytes`
    pub(crate) bytes: usize,
}

/// Why the group cannot be sent in a message of at most `bytes_max`, if it cannot.
pub(crate) fn too_large(group: &RolloutGroup, bytes_max: usize) -> Option<FailedGroup> {
    oversized(group, proto::group_bytes(group), bytes_max)
}

/// The groups in reports that fit, in order, and those that fit into none.
pub(crate) fn reports(
    groups: Vec<RolloutGroup>,
    limits: ReportLimits,
) -> (Vec<Vec<RolloutGroup>>, Vec<FailedGroup>) {
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    let (mut report, mut filled) = (Vec::new(), FRAME_BYTES);
    for group in groups {
        let bytes = proto::group_bytes(&group) + FRAME_BYTES;
        if let Some(oversized) = oversized(&group, bytes + FRAME_BYTES, limits.bytes) {
            failed.push(oversized);
            continue;
        }
        if report.len() >= limits.groups || filled + bytes > limits.bytes {
            reports.push(std::mem::take(&mut report));
            filled = FRAME_BYTES;
        }
        filled += bytes;
        report.push(group);
    }
    if !report.is_empty() {
        reports.push(report);
    }
    (reports, failed)
}

fn oversized(group: &RolloutGroup, bytes: usize, bytes_max: usize) -> Option<FailedGroup> {
    (bytes > bytes_max).then(|| FailedGroup {
        group: group.group,
        epoch: group.epoch,
        purpose: group.purpose,
        reason: ReturnReason::Failed,
        detail: format!(
            "a group of {} samples takes {bytes} bytes, over limits.message_bytes = {bytes_max}: \
             raise it",
            group.samples.len()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::weak_alone;

    #[test]
    fn reports_are_full_and_never_too_large() {
        let groups: Vec<_> = (0..5).map(|number| weak_alone(number, 2)).collect();
        let size = |groups: &[RolloutGroup]| {
            groups.iter().map(|g| proto::group_bytes(g) + FRAME_BYTES).sum::<usize>() + FRAME_BYTES
        };
        let bytes = size(&groups[..2]);
        let numbers = |limits| {
            let (made, failed) = reports(groups.clone(), limits);
            assert!(made.iter().all(|report| size(report) <= limits.bytes));
            let number = |group: &RolloutGroup| group.group.0;
            let made = made.iter().map(|report| report.iter().map(number).collect::<Vec<_>>());
            (made.collect::<Vec<_>>(), failed.len())
        };
        let (made, failed) = numbers(ReportLimits { groups: 64, bytes });
        assert_eq!((made.concat(), failed), (vec![0, 1, 2, 3, 4], 0));
        assert_eq!(made[0], [0, 1]);
        let by_count = numbers(ReportLimits { groups: 3, bytes: 1 << 20 });
        assert_eq!(by_count, (vec![vec![0, 1, 2], vec![3, 4]], 0));
    }

    #[test]
    fn a_group_that_fits_into_no_message_is_given_up_and_the_others_go() {
        let groups = vec![weak_alone(0, 1), weak_alone(1, 8), weak_alone(2, 1)];
        let bytes = proto::group_bytes(&groups[0]).max(proto::group_bytes(&groups[2])) + 32;
        assert_eq!(too_large(&groups[0], bytes), None);
        let found = too_large(&groups[1], bytes).unwrap();
        assert!(found.detail.contains(&format!("limits.message_bytes = {bytes}: raise it")));
        let (made, failed) = reports(groups.clone(), ReportLimits { groups: 64, bytes });
        let numbers: Vec<u64> = made.concat().iter().map(|group| group.group.0).collect();
        assert_eq!(numbers, [0, 2]);
        assert_eq!((failed.len(), failed[0].group), (1, groups[1].group));
        assert!(failed[0].detail.contains("8 samples"), "{}", failed[0].detail);
    }
}
