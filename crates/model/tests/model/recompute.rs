//! The pass by blocks has the values and gradients of the plain one.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use model::GradientSink;

use crate::chunks::{close, flat, inputs, scoring, variables, weights};
use crate::tiny;

/// Sums by name, as the learner's buffer does.
#[derive(Default)]
struct Sums(BTreeMap<String, Vec<f64>>);

impl Sums {
    fn of(&mut self, name: &str, len: usize) -> &mut Vec<f64> {
        let sum = self.0.entry(name.to_owned()).or_default();
        sum.resize(sum.len().max(len), 0.0);
        sum
    }
}

impl GradientSink for Sums {
    fn add(&mut self, name: &str, first: usize, part: &Tensor) -> candle_core::Result<()> {
        let start = first * part.dims().get(1).copied().unwrap_or(1);
        let values = flat(part);
        let sum = self.of(name, start + values.len());
        sum[start..].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        Ok(())
    }

    fn add_rows(&mut self, name: &str, rows: &[u32], part: &Tensor) -> candle_core::Result<()> {
        let values: Vec<Vec<f64>> = part.to_dtype(DType::F64)?.to_vec2()?;
        for (row, values) in rows.iter().zip(values) {
            let start = *row as usize * values.len();
            let sum = self.of(name, start + values.len());
            sum[start..].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }
}

fn check(dtype: DType, tolerance: f64) {
    let (tokens, select, targets) = inputs();
    let (tokens, targets) = (tokens.minimum(19u32).unwrap(), targets.minimum(19u32).unwrap());
    let scoring = scoring(0.8, &[3, 7], 4);
    // The last rows of the vocabulary are padding, or none.
    for (kind, ids) in tiny::KINDS.into_iter().zip([23, 20].into_iter().cycle()) {
        let mut config = tiny::config(kind);
        config.ids = ids;
        let (vars, decoder) = variables(&config, dtype);
        let plain = decoder.logprobs(&tokens, &select, &targets, &scoring).unwrap();
        let slopes = weights(plain.elem_count(), dtype);
        let grads = plain.mul(&slopes).unwrap().sum_all().unwrap().backward().unwrap();
        let by_blocks = decoder.logprobs_by_blocks(&tokens, &select, &targets, &scoring).unwrap();
        close(&flat(by_blocks.logprobs()), &flat(&plain), tolerance, "values");
        let mut sums = Sums::default();
        by_blocks.backward(&flat(&slopes), &mut sums).unwrap();
        assert_eq!(sums.0.len(), vars.len(), "{kind:?}");
        for (name, var) in &vars {
            let mut found = sums.0.remove(name).unwrap();
            // The last tokens of the vocabulary may never have come.
            found.resize(var.elem_count(), 0.0);
            close(&found, &flat(grads.get(var).unwrap()), tolerance, &format!("{kind:?} {name}"));
        }
    }
}

#[test]
fn blocks_equal_the_plain_pass_in_f32() {
    check(DType::F32, 1e-5);
}

#[test]
fn blocks_equal_the_plain_pass_in_f64() {
    check(DType::F64, 1e-12);
}

#[test]
fn nothing_selected_is_nothing_to_go_back_through() {
    let (_, decoder) = variables(&tiny::config(tiny::KINDS[4]), DType::F32);
    let (tokens, select, targets) = inputs();
    let scoring = scoring(1.0, &[], 4);
    let none = |ids: &Tensor| ids.narrow(0, 0, 0).unwrap();
    let pass =
        decoder.logprobs_by_blocks(&tokens, &none(&select), &none(&targets), &scoring).unwrap();
    let mut sums = Sums::default();
    pass.backward(&[], &mut sums).unwrap();
    assert!(sums.0.is_empty());
    let pass = decoder.logprobs_by_blocks(&tokens, &select, &targets, &scoring).unwrap();
    let error = pass.backward(&[1.0], &mut sums).unwrap_err().to_string();
    assert_eq!(error, "1 slopes for 9 log-probabilities");
    let error = decoder.logprobs(&tokens, &none(&select), &targets, &scoring).unwrap_err();
    assert_eq!(error.to_string(), "9 targets for 0 selected positions");
}
