//! The trained variables in name order, each with its place in the flat gradient buffer.
//! Reading them from files and publishing them is done elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Var};

use crate::Error;

/// One variable's place; shared by parameters, gradients and moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) range: Range<usize>,
    pub(crate) shape: Vec<usize>,
}

/// Clones share the variables.
#[derive(Clone, Debug)]
pub struct Parameters {
    vars: Vec<Var>,
    slots: Arc<[Slot]>,
}

impl Parameters {
    /// # Errors
    /// A variable that is neither f32 nor f64.
    pub fn new(vars: BTreeMap<String, Var>) -> Result<Self, Error> {
        let mut slots = Vec::with_capacity(vars.len());
        let mut start = 0;
        for (name, var) in &vars {
            if !matches!(var.dtype(), DType::F32 | DType::F64) {
                let dtype = var.dtype().as_str().to_owned();
                return Err(Error::Dtype { name: name.clone(), dtype });
            }
            let range = start..start + var.elem_count();
            start = range.end;
            slots.push(Slot { name: name.clone(), range, shape: var.dims().to_vec() });
        }
        Ok(Self { vars: vars.into_values().collect(), slots: slots.into() })
    }

    /// In name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.slots.iter().map(|slot| slot.name.as_str()).zip(&self.vars)
    }

    /// Numbers in all variables together.
    #[must_use]
    pub fn elem_count(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.range.end)
    }

    pub(crate) fn slots(&self) -> &Arc<[Slot]> {
        &self.slots
    }

    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Slot, &Var)> {
        self.slots.iter().zip(&self.vars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn variables_are_laid_out_by_name() {
        let var = |shape: &[usize]| Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let vars = [("b".to_owned(), var(&[2, 3])), ("a".to_owned(), var(&[4]))];
        let parameters = Parameters::new(vars.into()).unwrap();
        let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
        let ranges: Vec<_> = parameters.slots().iter().map(|slot| slot.range.clone()).collect();
        assert_eq!(ranges, [0..4, 4..10]);
        assert_eq!(parameters.elem_count(), 10);
    }

    #[test]
    fn half_precision_masters_are_refused() {
        let half = Tensor::zeros(2, DType::BF16, &Device::Cpu).unwrap();
        let vars = [("w".to_owned(), Var::from_tensor(&half).unwrap())];
        let error = Parameters::new(vars.into()).expect_err("must be refused").to_string();
        assert!(error.contains("`w` is bf16"), "{error}");
    }
}
