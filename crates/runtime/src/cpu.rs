//! Processor time and how cores are shared out between processes. It sets no thread counts:
//! whoever starts a process hands them over.

use std::num::NonZero;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Processor seconds, user and system, of this process and of the children it has waited for.
pub fn cpu_seconds_self_and_children() -> std::io::Result<f64> {
    let own = getrusage(UsageWho::RUSAGE_SELF)?;
    let children = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(cpu_seconds(&own) + cpu_seconds(&children))
}

/// The cores that this process may use, at least 1.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Shares `total` cores among processes in proportion to their weights. Every process gets at
/// least one; the sum is `total` unless there are more processes than cores.
pub fn divide_cores(total: usize, weights: &[f64]) -> Vec<usize> {
    let weights: Vec<f64> = weights.iter().map(|w| if *w > 0.0 { *w } else { 0.0 }).collect();
    let sum: f64 = weights.iter().sum();
    let ideal = |i: usize| if sum > 0.0 { total as f64 * weights[i] / sum } else { 0.0 };
    let mut cores = vec![1; weights.len()];
    for _ in weights.len()..total {
        // The next core goes where most is missing; the first of equals, so that it repeats.
        let missing = |i: usize| ideal(i) - cores[i] as f64;
        let neediest =
            (0..cores.len()).max_by(|a, b| missing(*a).total_cmp(&missing(*b)).then(b.cmp(a)));
        if let Some(neediest) = neediest {
            cores[neediest] += 1;
        }
    }
    cores
}

fn cpu_seconds(usage: &Usage) -> f64 {
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_follow_the_weights() {
        let check = |total, weights: &[f64], expected: &[usize]| {
            assert_eq!(divide_cores(total, weights), expected, "{total} over {weights:?}");
        };
        check(2, &[1.0, 1.0, 1.0, 1.0], &[1, 1, 1, 1]);
        check(8, &[1.0, 1.0], &[4, 4]);
        check(9, &[1.0, 1.0], &[5, 4]);
        check(12, &[2.0, 1.0, 1.0], &[6, 3, 3]);
        check(10, &[100.0, 1.0, 1.0], &[8, 1, 1]);
        check(4, &[0.0, f64::NAN], &[2, 2]);
        check(4, &[], &[]);
    }

    #[test]
    fn work_shows_up_in_the_processor_time() {
        let before = cpu_seconds_self_and_children().expect("getrusage works");
        let mut x = 1u64;
        while cpu_seconds_self_and_children().expect("getrusage works") < before + 0.01 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        assert!(before >= 0.0);
    }
}
