//! Hand-computed terms, a composed-tensor reference and central differences, all in f64.

use candle_core::{Device, Tensor, Var};

use super::*;

const CPU: Device = Device::Cpu;

fn columns(sampler: &[f32], weights: &[f32]) -> TokenColumns {
    TokenColumns {
        sampler_logprobs: sampler.to_vec(),
        weights: weights.to_vec(),
        lags: vec![0; weights.len()],
        sequences: vec![0; weights.len()],
    }
}

fn run(
    logprobs: &[f64],
    reference: Option<&[f64]>,
    columns: &TokenColumns,
    settings: &LossSettings,
) -> (LossOutput, Vec<f64>) {
    let logprobs = Var::new(logprobs, &CPU).unwrap();
    let reference = reference.map(|r| Tensor::new(r, &CPU).unwrap());
    let inputs = LossInputs { logprobs: &logprobs, reference: reference.as_ref(), columns };
    let output = policy_loss(&inputs, settings, columns.len() as f64).unwrap();
    let mut store = output.loss.backward().unwrap();
    let gradient = store.remove(&logprobs).unwrap().to_vec1::<f64>().unwrap();
    (output, gradient)
}

fn close(found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1.0), "{found} for {expected}");
}

/// One token with the given ratio and advantage: value and slope.
fn check_token(settings: &LossSettings, advantage: f32, ratio: f64, expected: (f64, f64)) {
    let columns = columns(&[-1.0], &[advantage]);
    let (output, gradient) = run(&[ratio.ln() - 1.0], None, &columns, settings);
    close(output.value, expected.0, 1e-12);
    close(output.loss.to_scalar::<f64>().unwrap(), expected.0, 1e-12);
    close(gradient[0], expected.1, 1e-12);
}

#[test]
fn single_tokens_below_inside_and_above_the_clip() {
    let settings = LossSettings { clip_high: 0.3, ..LossSettings::default() };
    check_token(&settings, 2.0, 0.5, (-1.0, -1.0));
    check_token(&settings, 2.0, 1.1, (-2.2, -2.2));
    check_token(&settings, 2.0, 2.0, (-2.6, 0.0));
    check_token(&settings, -2.0, 0.5, (1.6, 0.0));
    check_token(&settings, -2.0, 1.1, (2.2, 2.2));
    check_token(&settings, -2.0, 2.0, (4.0, 4.0));
}

#[test]
fn truncation_caps_what_a_token_weighs() {
    let settings =
        LossSettings { clip_high: 0.3, truncate_ratio: Some(1.5), ..LossSettings::default() };
    check_token(&settings, 2.0, 1.1, (-2.2, -2.2));
    check_token(&settings, -2.0, 1.4, (2.8, 2.8));
    check_token(&settings, -2.0, 4.0, (3.0, 3.0));
    check_token(&settings, 2.0, 4.0, (-2.6 * 1.5 / 4.0, 0.0));
    let far = columns(&[-800.0], &[-2.0]);
    let (output, gradient) = run(&[0.0], None, &far, &settings);
    assert_eq!((output.value, gradient[0]), (3.0, 3.0), "an infinite ratio weighs its cap");
}

#[test]
fn kl_to_the_start_is_k3_and_flows_through_the_policy_only() {
    let settings = LossSettings { kl: 0.1, ..LossSettings::default() };
    let columns = columns(&[-1.0], &[0.5]);
    let reference = [2.0_f64.ln() - 1.0];
    let (output, gradient) = run(&[-1.0], Some(&reference), &columns, &settings);
    let k3 = 2.0 - 2.0_f64.ln() - 1.0;
    close(output.value, -0.5 + 0.1 * k3, 1e-12);
    close(gradient[0], -0.5 - 0.1, 1e-12);
    close(output.stats.kl_to_start(), k3, 1e-12);
    let (same, _) = run(&[-1.0], Some(&[-1.0]), &columns, &settings);
    assert_eq!(same.stats.kl_start, 0.0);
}

#[test]
fn reinforce_is_the_weighted_log_likelihood_whatever_the_ratio() {
    let settings = LossSettings { ratio: RatioLevel::Off, ..LossSettings::default() };
    let (output, gradient) =
        run(&[-2.0, -0.5], None, &columns(&[-9.0, -0.1], &[1.0, 1.0]), &settings);
    close(output.value, 1.25, 1e-12);
    assert_eq!(gradient, [-0.5, -0.5]);
    assert_eq!(output.stats.total().clipped, 0.0);
    assert_eq!(output.stats.total().largest, 7.0, "the mismatch is reported all the same");
}

#[test]
fn reinforce_weighs_older_samples_by_their_capped_ratio() {
    let settings = LossSettings {
        ratio: RatioLevel::Off,
        truncate_ratio: Some(2.0),
        ..LossSettings::default()
    };
    // ratios 0.5 and 4: the second weighs its cap
    let sampler = [2.0_f32.ln() - 1.0, -1.0 - 4.0_f32.ln()];
    let (output, gradient) = run(&[-1.0, -1.0], None, &columns(&sampler, &[1.0, 1.0]), &settings);
    close(output.value, (0.5 + 2.0) / 2.0, 1e-6);
    close(gradient[0], -0.25, 1e-6);
    close(gradient[1], -1.0, 1e-6);
    assert_eq!(output.stats.total().truncated, 1.0);
}

#[test]
fn a_sequence_ratio_is_the_mean_over_its_strong_tokens() {
    let settings = LossSettings { ratio: RatioLevel::Sequence, ..LossSettings::default() };
    let mut columns = columns(&[-1.0, -1.0, -1.0], &[1.0, 1.0, -1.0]);
    columns.sequences = vec![0, 0, 1];
    // token ratios 2 and 0.5: the sequence's is 1, though each alone were out of the clip
    let ln2 = 2.0_f64.ln();
    let logprobs = [ln2 - 1.0, -ln2 - 1.0, 1.1_f64.ln() - 1.0];
    let (output, gradient) = run(&logprobs, None, &columns, &settings);
    close(output.value, (-1.0 - 1.0 + 1.1) / 3.0, 1e-12);
    for (found, expected) in gradient.iter().zip([-1.0 / 3.0, -1.0 / 3.0, 1.1 / 3.0]) {
        close(*found, expected, 1e-12);
    }
}

/// Tokens on every side of the clip and of the cap, none near an edge.
fn mixed() -> (Vec<f64>, Vec<f64>, TokenColumns) {
    let logprobs = vec![-0.9, -1.4, -0.3, -2.2, -0.7, -3.1, -0.2, -1.0];
    let reference = vec![-1.0, -1.1, -0.6, -2.0, -0.9, -2.5, -0.4, -1.3];
    let mut columns = columns(
        &[-1.0, -1.0, -1.5, -2.0, -1.6, -3.0, -0.5, -1.05],
        &[1.2, 1.2, 1.2, -0.7, -0.7, -0.7, 0.4, 0.4],
    );
    columns.sequences = vec![0, 0, 0, 1, 1, 1, 2, 2];
    columns.lags = vec![0, 0, 1, 1, 2, 3, 0, 9];
    (logprobs, reference, columns)
}

#[test]
fn gradients_agree_with_central_differences() {
    let (logprobs, reference, columns) = mixed();
    for ratio in [RatioLevel::Token, RatioLevel::Sequence, RatioLevel::Off] {
        let settings = LossSettings { kl: 0.05, ratio, ..LossSettings::default() };
        let (_, gradient) = run(&logprobs, Some(&reference), &columns, &settings);
        for index in 0..logprobs.len() {
            let shifted = |by: f64| {
                let mut logprobs = logprobs.clone();
                logprobs[index] += by;
                run(&logprobs, Some(&reference), &columns, &settings).0.value
            };
            let difference = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
            close(gradient[index], difference, 1e-8);
        }
    }
}

/// The same loss written as differentiable tensor operations, truncation included.
fn composed(logprobs: &Tensor, columns: &TokenColumns, settings: &LossSettings) -> Tensor {
    let count = columns.len();
    let column = |values: &[f32]| {
        let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        Tensor::new(values, &CPU).unwrap()
    };
    let mut log_ratio = (logprobs - column(&columns.sampler_logprobs)).unwrap();
    if settings.ratio == RatioLevel::Sequence {
        let same = |a: usize, b: usize| columns.sequences[a] == columns.sequences[b];
        let size = |a| (0..count).filter(|b| same(a, *b)).count() as f64;
        let averaging: Vec<f64> = (0..count * count)
            .map(|i| (i / count, i % count))
            .map(|(a, b)| if same(a, b) { 1.0 / size(a) } else { 0.0 })
            .collect();
        let averaging = Tensor::from_vec(averaging, (count, count), &CPU).unwrap();
        let column = log_ratio.unsqueeze(1).unwrap();
        log_ratio = averaging.matmul(&column).unwrap().squeeze(1).unwrap();
    }
    let ratio = log_ratio.exp().unwrap();
    let clipped = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high).unwrap();
    let weights = column(&columns.weights);
    let (free, bound) = ((&ratio * &weights).unwrap(), (&clipped * &weights).unwrap());
    let mut term = free.minimum(&bound).unwrap().neg().unwrap();
    if let Some(cap) = settings.truncate_ratio {
        let fixed = ratio.detach();
        term = (term * (fixed.minimum(cap).unwrap() / &fixed).unwrap()).unwrap();
    }
    (term.sum_all().unwrap() / count as f64).unwrap()
}

#[test]
fn value_and_gradient_agree_with_composed_tensor_operations() {
    let (logprobs, _, columns) = mixed();
    for ratio in [RatioLevel::Token, RatioLevel::Sequence] {
        for truncate_ratio in [None, Some(1.3), Some(1.05)] {
            let settings = LossSettings { truncate_ratio, ratio, ..LossSettings::default() };
            let (output, gradient) = run(&logprobs, None, &columns, &settings);
            let var = Var::new(logprobs.as_slice(), &CPU).unwrap();
            let loss = composed(&var, &columns, &settings);
            close(output.value, loss.to_scalar::<f64>().unwrap(), 1e-12);
            let expected = loss.backward().unwrap().remove(&var).unwrap();
            for (found, expected) in gradient.iter().zip(expected.to_vec1::<f64>().unwrap()) {
                close(*found, expected, 1e-12);
            }
        }
    }
}

#[test]
fn statistics_are_raw_and_by_staleness() {
    let (logprobs, reference, columns) = mixed();
    let settings = LossSettings { truncate_ratio: Some(2.0), ..LossSettings::default() };
    let (output, _) = run(&logprobs, Some(&reference), &columns, &settings);
    let stats = output.stats;
    assert_eq!(stats.by_lag.map(|class| class.tokens), [3.0, 2.0, 3.0]);
    let log_ratios: Vec<f64> =
        logprobs.iter().zip(&columns.sampler_logprobs).map(|(l, s)| l - f64::from(*s)).collect();
    let total = stats.total();
    let mean = |f: &dyn Fn(f64) -> f64| log_ratios.iter().map(|d| f(*d)).sum::<f64>() / 8.0;
    close(total.mismatch_kl(), mean(&|d| d.exp() - 1.0 - d), 1e-9);
    let effective = mean(&f64::exp).powi(2) / mean(&|d| (2.0 * d).exp());
    close(total.effective_share(), effective, 1e-9);
    close(total.largest, 1.2, 1e-7);
    close(stats.by_lag[2].largest, 0.9, 1e-7);
    assert_eq!(total.clipped, 2.0, "tokens 2 and 6, above 1.2; token 3 is at 0.819, above 0.8");
    assert_eq!(total.truncated, 2.0, "tokens 2 and 4");
    close(stats.mean_loss(), output.value, 1e-12);
    close(stats.mean_surprisal(), -logprobs.iter().sum::<f64>() / 8.0, 1e-12);
}

#[test]
fn unusable_inputs_are_refused_by_name() {
    let refused = |logprobs: &[f64], columns: &TokenColumns, settings: LossSettings, over: f64| {
        let logprobs = Tensor::new(logprobs, &CPU).unwrap();
        let inputs = LossInputs { logprobs: &logprobs, reference: None, columns };
        policy_loss(&inputs, &settings, over).expect_err("must be refused").to_string()
    };
    let (good, plain) = (columns(&[-1.0], &[1.0]), LossSettings::default());
    assert!(refused(&[-1.0], &good, plain, 0.0).contains("denominator is 0"));
    assert!(refused(&[-1.0, -2.0], &good, plain, 1.0).contains("2 entries where 1"));
    assert!(refused(&[f64::NAN], &good, plain, 1.0).contains("log-probability of token 0"));
    assert!(refused(&[-1.0], &columns(&[f32::NEG_INFINITY], &[1.0]), plain, 1.0).contains("-inf"));
    assert!(refused(&[-1.0], &columns(&[-1.0], &[f32::NAN]), plain, 1.0).contains("weight"));
    let kl = LossSettings { kl: 0.1, ..plain };
    assert!(refused(&[-1.0], &good, kl, 1.0).contains("run's start"));
    for (settings, name) in [
        (LossSettings { clip_low: 1.0, ..plain }, "clip_low"),
        (LossSettings { clip_high: -0.1, ..plain }, "clip_high"),
        (LossSettings { truncate_ratio: Some(0.5), ..plain }, "truncate_ratio"),
        (LossSettings { kl: f64::NAN, ..plain }, "kl"),
    ] {
        assert!(refused(&[-1.0], &good, settings, 1.0).contains(name));
    }
}
