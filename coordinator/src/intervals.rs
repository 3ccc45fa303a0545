//! pass@k and its 95% intervals. What the numbers are of is the caller's.

/// Of the normal distribution, for 95%.
const Z: f64 = 1.959_963_984_540_054;

const RESAMPLES: usize = 2_000;

/// A mean over problems with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The probability that of `k` of `samples` rollouts at least one is right, where `correct` are:
/// 1 − C(n − c, k) / C(n, k) (Chen et al., 2021, arXiv 2107.03374). `k` is at most `samples`.
#[must_use]
pub fn pass_at(k: u32, samples: u32, correct: u32) -> f64 {
    let wrong = samples - correct;
    let all_wrong = (0..k).map(|i| {
        let of = f64::from(samples - i);
        f64::from(wrong.saturating_sub(i)) / of
    });
    1.0 - all_wrong.product::<f64>()
}

/// The means of several measures over the same problems, `measures` by problem. Where every
/// problem has 0 or 1, as with one sample, the mean is a proportion and has Wilson's interval;
/// otherwise a bootstrap over problems, the same resamples for every measure, has the last word.
/// None where there is no problem.
#[must_use]
pub fn estimates(measures: &[Vec<f64>], seed: u64) -> Vec<Option<Estimate>> {
    let drawn: Vec<&Vec<f64>> = measures.iter().filter(|values| !is_proportion(values)).collect();
    let mut drawn = bootstrap(&drawn, seed).into_iter();
    let estimate = |values: &Vec<f64>| {
        let problems = values.len();
        let value = (problems > 0).then(|| values.iter().sum::<f64>() / problems as f64)?;
        let (low, high) = match is_proportion(values) {
            true => wilson(value, problems),
            false => drawn.next()?,
        };
        Some(Estimate { value, low, high })
    };
    measures.iter().map(estimate).collect()
}

fn is_proportion(values: &[f64]) -> bool {
    values.iter().all(|value| *value == 0.0 || *value == 1.0)
}

/// The score interval of a proportion (Wilson, 1927).
fn wilson(share: f64, of: usize) -> (f64, f64) {
    let n = of as f64;
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let (middle, scale) = (share + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
}

/// The difference of two independent proportions, first minus second, each of so many outcomes, with
/// Newcombe's interval (1998, method 10).
#[must_use]
pub fn difference(first: (f64, usize), second: (f64, usize)) -> Estimate {
    let ((p, n), (q, m)) = (first, second);
    let ((p_low, p_high), (q_low, q_high)) = (wilson(p, n), wilson(q, m));
    let value = p - q;
    let low = value - ((p - p_low).powi(2) + (q_high - q).powi(2)).sqrt();
    let high = value + ((p_high - p).powi(2) + (q - q_low).powi(2)).sqrt();
    Estimate { value, low, high }
}

/// The mean of `first` minus `second` over the same problems. Where both have 0 or 1 at every problem it has
/// Newcombe's interval for paired proportions (1998, Statistics in Medicine 17:2635, method 10);
/// otherwise that of a bootstrap over problems. None where there is no problem.
#[must_use]
pub fn paired_difference(first: &[f64], second: &[f64], seed: u64) -> Option<Estimate> {
    let each: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let n = each.len() as f64;
    let value = (n > 0.0).then(|| each.iter().sum::<f64>() / n)?;
    if !is_proportion(first) || !is_proportion(second) {
        let (low, high) = bootstrap(&[&each], seed).into_iter().next()?;
        return Some(Estimate { value, low, high });
    }
    let count =
        |a: f64, b: f64| first.iter().zip(second).filter(|pair| *pair == (&a, &b)).count() as f64;
    let (both, none) = (count(1.0, 1.0), count(0.0, 0.0));
    let (p, q) = (first.iter().sum::<f64>() / n, second.iter().sum::<f64>() / n);
    let surplus = both * none - count(1.0, 0.0) * count(0.0, 1.0);
    let surplus = if surplus > 0.0 { (surplus - n / 2.0).max(0.0) } else { surplus };
    let spread = n * n * (p * (1.0 - p) * q * (1.0 - q)).sqrt();
    let correlation = if spread > 0.0 { surplus / spread } else { 0.0 };
    let ((p_low, p_high), (q_low, q_high)) = (wilson(p, each.len()), wilson(q, each.len()));
    let root = |a: f64, b: f64| (a * a - 2.0 * correlation * a * b + b * b).sqrt();
    let (low, high) = (value - root(p - p_low, q_high - q), value + root(p_high - p, q - q_low));
    Some(Estimate { value, low, high })
}

/// The 2.5th and 97.5th percentiles of the means of resamples, problems drawn with replacement.
fn bootstrap(measures: &[&Vec<f64>], seed: u64) -> Vec<(f64, f64)> {
    let Some(problems) = measures.first().map(|values| values.len()) else { return Vec::new() };
    debug_assert!(measures.iter().all(|values| values.len() == problems), "the same problems");
    let mut hasher = blake3::Hasher::new_derive_key("tandem coordinator bootstrap v1");
    hasher.update(&seed.to_le_bytes());
    let mut draws = hasher.finalize_xof();
    let mut means = vec![Vec::with_capacity(RESAMPLES); measures.len()];
    let mut bytes = vec![0; 4 * problems];
    for _ in 0..RESAMPLES {
        draws.fill(&mut bytes);
        let chosen = bytes.chunks_exact(4).map(|four| {
            let bits = u32::from_le_bytes(four.try_into().expect("chunks of four"));
            // The high half of the product lies evenly in 0..problems, but for 2⁻³² × problems.
            ((u64::from(bits) * problems as u64) >> 32) as usize
        });
        let chosen: Vec<usize> = chosen.collect();
        for (values, means) in measures.iter().zip(&mut means) {
            let sum: f64 = chosen.iter().map(|problem| values[*problem]).sum();
            means.push(sum / problems as f64);
        }
    }
    means.iter_mut().map(|means| middle(means)).collect()
}

fn middle(means: &mut [f64]) -> (f64, f64) {
    means.sort_unstable_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    (means[tail], means[RESAMPLES - 1 - tail])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(values: &[f64], seed: u64) -> Estimate {
        estimates(&[values.to_vec()], seed)[0].unwrap()
    }

    #[test]
    fn pass_at_k_counts_the_draws_that_hold_a_right_one() {
        // Of 4 with 1 right: 2 of 4 hold it in 3 of 6 pairs.
        for (k, samples, correct, expected) in [
            (1, 1, 1, 1.0),
            (1, 1, 0, 0.0),
            (1, 4, 1, 0.25),
            (2, 4, 1, 0.5),
            (4, 4, 1, 1.0),
            (2, 4, 2, 5.0 / 6.0),
            (2, 4, 3, 1.0),
            (3, 5, 0, 0.0),
            (3, 10, 2, 1.0 - 56.0 / 120.0),
        ] {
            let found = pass_at(k, samples, correct);
            assert!((found - expected).abs() < 1e-12, "pass@{k} of {correct}/{samples}: {found}");
        }
    }

    #[test]
    fn a_proportion_has_wilsons_interval() {
        // By scipy's binomtest(87, 200).proportion_ci(method="wilson").
        let values: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i < 87))).collect();
        let found = one(&values, 1);
        assert_eq!((found.value, found), (0.435, one(&values, 2)));
        assert!((found.low - 0.368_157_3).abs() < 1e-6, "{found:?}");
        assert!((found.high - 0.504_292_6).abs() < 1e-6, "{found:?}");
        let none = one(&[0.0; 50], 1);
        assert!(none.value == 0.0 && none.low < 1e-12, "{none:?}");
        assert!((none.high - 0.071_347_6).abs() < 1e-6, "not empty at the edge: {none:?}");
        assert_eq!(estimates(&[Vec::new()], 1), [None]);
    }

    #[test]
    fn a_difference_of_proportions_has_newcombes_interval() {
        // Newcombe (1998), table II, example a: 56/70 against 48/80.
        let found = difference((56.0 / 70.0, 70), (48.0 / 80.0, 80));
        assert!((found.value - 0.2).abs() < 1e-12, "{found:?}");
        assert!((found.low - 0.0524).abs() < 5e-5, "{found:?}");
        assert!((found.high - 0.3339).abs() < 5e-5, "{found:?}");
    }

    /// Outcomes of pairs: both, the first alone, the second alone, none.
    fn pairs(counts: [usize; 4]) -> (Vec<f64>, Vec<f64>) {
        let outcomes = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)];
        counts.iter().zip(outcomes).flat_map(|(n, pair)| vec![pair; *n]).unzip()
    }

    #[test]
    fn a_paired_difference_has_newcombes_interval() {
        let of = |counts| {
            let (first, second) = pairs(counts);
            paired_difference(&first, &second, 1).unwrap()
        };
        // By hand: Wilson's intervals of 48/50 and 38/50, a correlation of -24/209.2.
        let found = of([36, 12, 2, 0]);
        assert!((found.value - 0.2).abs() < 1e-12, "{found:?}");
        assert!(
            (found.low - 0.0569).abs() < 1e-4 && (found.high - 0.3404).abs() < 1e-4,
            "{found:?}"
        );
        // One problem of 256 shows nothing, and nothing at all shows nothing either way.
        let one = of([0, 1, 0, 255]);
        assert!(one.low < 0.0 && one.high > 0.01, "{one:?}");
        let none = of([0, 0, 0, 4]);
        assert!((none.low + none.high).abs() < 1e-12 && none.high > 0.4, "{none:?}");
        assert_eq!(paired_difference(&[], &[], 1), None);
        let shares = paired_difference(&[0.5, 1.0, 0.25], &[0.5, 0.5, 0.0], 1).unwrap();
        assert!(shares.value == 0.25 && shares.low == 0.0 && shares.high == 0.5, "{shares:?}");
    }

    #[test]
    fn a_bootstrap_spans_what_the_central_limit_says() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 5) / 4.0).collect();
        let found = one(&values, 7);
        // Variance of 0, ¼, ½, ¾, 1 is ⅛.
        let half = Z * (0.125_f64 / 400.0).sqrt();
        assert_eq!(found.value, 0.5);
        assert!((found.low - (0.5 - half)).abs() < 0.004, "{found:?} against ±{half}");
        assert!((found.high - (0.5 + half)).abs() < 0.004, "{found:?} against ±{half}");
        assert_eq!(found, one(&values, 7));
        assert_ne!(found, one(&values, 8));
        let both = estimates(&[vec![1.0; 400], values.clone(), values], 7);
        assert_eq!((both[1], both[2]), (Some(found), Some(found)), "one set of resamples");
        assert!(both[0].unwrap().high > 1.0 - 1e-12);
    }
}
