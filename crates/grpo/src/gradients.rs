//! All gradients of a step in one flat f32 buffer, in name order: what the ranks all-reduce.
//! Backward passes happen outside; applying the result is the optimiser's.

use std::sync::Arc;

use candle_core::DType;
use candle_core::backprop::GradStore;

use crate::Error;
use crate::parameters::{Parameters, Slot};

#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    slots: Arc<[Slot]>,
    flat: Vec<f32>,
}

impl Gradients {
    /// Where a step's sum begins; also what a rank without tokens contributes.
    #[must_use]
    pub fn zeros(parameters: &Parameters) -> Self {
        let flat = vec![0.0; parameters.elem_count()];
        Self { slots: Arc::clone(parameters.slots()), flat }
    }

    /// Adds one micro-batch's gradients. Looks at the variables only: candle's store may hold
    /// gradients of other tensors. After an error the sum is not to be used.
    ///
    /// # Errors
    /// A variable without gradient, or with one that is not finite.
    pub fn accumulate(&mut self, parameters: &Parameters, store: &GradStore) -> Result<(), Error> {
        for (slot, var) in parameters.placed() {
            let gradient =
                store.get(var).ok_or_else(|| Error::MissingGradient { name: slot.name.clone() })?;
            let values = gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let sum = &mut self.flat[slot.range.clone()];
            if values.len() != sum.len() {
                let (found, expected) = (values.len(), sum.len());
                return Err(Error::Length { what: "gradient of a variable", found, expected });
            }
            sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
        }
        self.check_finite()
    }

    /// In name order, each variable's numbers in row-major order.
    #[must_use]
    pub fn flat(&self) -> &[f32] {
        &self.flat
    }

    /// For the all-reduce.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        &mut self.flat
    }

    /// # Errors
    /// The first gradient, by name, that has a value which is not finite.
    pub fn check_finite(&self) -> Result<(), Error> {
        let broken = |slot: &&Slot| self.flat[slot.range.clone()].iter().any(|v| !v.is_finite());
        match self.slots.iter().find(broken) {
            Some(slot) => Err(Error::GradientNotFinite { name: slot.name.clone() }),
            None => Ok(()),
        }
    }

    /// Euclidean, over all variables, summed in f64.
    #[must_use]
    pub fn global_norm(&self) -> f64 {
        self.flat.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
    }

    /// Scales everything so that the global norm is at most `max`; returns the norm before.
    ///
    /// # Errors
    /// A gradient that is not finite.
    pub fn clip_global_norm(&mut self, max: f64) -> Result<f64, Error> {
        self.check_finite()?;
        let norm = self.global_norm();
        if norm > max {
            let scale = (max / norm) as f32;
            self.flat.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(norm)
    }

    pub(crate) fn is_of(&self, parameters: &Parameters) -> bool {
        Arc::ptr_eq(&self.slots, parameters.slots()) || self.slots == *parameters.slots()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor, Var};

    fn parameters(dtype: DType) -> Parameters {
        let var = |values: &[f64]| {
            let tensor = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            Var::from_tensor(&tensor).unwrap()
        };
        let vars = [("b".to_owned(), var(&[5.0])), ("a".to_owned(), var(&[3.0, 4.0]))];
        Parameters::new(vars.into()).unwrap()
    }

    fn var(parameters: &Parameters, name: &str) -> Tensor {
        let found = parameters.iter().find(|(n, _)| *n == name).unwrap();
        found.1.as_tensor().clone()
    }

    #[test]
    fn gradients_add_up_in_name_order_for_both_precisions() {
        for dtype in [DType::F32, DType::F64] {
            let p = parameters(dtype);
            let loss = (var(&p, "a").sqr().unwrap().sum_all().unwrap()
                + (var(&p, "b").sum_all().unwrap() * 7.0).unwrap())
            .unwrap();
            let store = loss.backward().unwrap();
            let mut gradients = Gradients::zeros(&p);
            gradients.accumulate(&p, &store).unwrap();
            assert_eq!(gradients.flat(), [6.0, 8.0, 7.0]);
            gradients.accumulate(&p, &store).unwrap();
            assert_eq!(gradients.flat(), [12.0, 16.0, 14.0]);
        }
    }

    #[test]
    fn a_hidden_variable_and_a_broken_gradient_are_named() {
        let p = parameters(DType::F32);
        let store = var(&p, "a").sum_all().unwrap().backward().unwrap();
        let error = Gradients::zeros(&p).accumulate(&p, &store).expect_err("`b` is hidden");
        assert!(error.to_string().contains("`b` has no gradient"), "{error}");
        let root = ((var(&p, "b") - 5.0).unwrap().sqrt().unwrap().sum_all().unwrap()
            + var(&p, "a").sum_all().unwrap())
        .unwrap();
        let store = root.backward().unwrap();
        let error = Gradients::zeros(&p).accumulate(&p, &store).expect_err("infinite slope");
        assert!(error.to_string().contains("`b`"), "{error}");
    }

    #[test]
    fn clipping_looks_at_variables_only_and_keeps_the_direction() {
        let p = parameters(DType::F32);
        // a frozen operand gets a gradient of 1e6 from candle; it must not count
        let frozen = Var::new(&[1.0_f32, 1.0], &Device::Cpu).unwrap();
        let loss = ((var(&p, "a") * 3.0).unwrap().sum_all().unwrap()
            + (var(&p, "b") * 1e-30).unwrap().sum_all().unwrap())
        .unwrap();
        let loss = (loss + (frozen.as_tensor() * 1e6).unwrap().sum_all().unwrap()).unwrap();
        let mut gradients = Gradients::zeros(&p);
        gradients.accumulate(&p, &loss.backward().unwrap()).unwrap();
        let norm = gradients.clip_global_norm(1.0).unwrap();
        assert!((norm - 18.0_f64.sqrt()).abs() < 1e-9);
        assert!((gradients.global_norm() - 1.0).abs() < 1e-6);
        assert_eq!(gradients.flat()[0], gradients.flat()[1]);
        let before = gradients.clone();
        gradients.clip_global_norm(5.0).unwrap();
        assert_eq!(gradients, before, "a small gradient is left as it is");
        gradients.flat_mut()[2] = f32::NAN;
        assert!(gradients.clip_global_norm(1.0).unwrap_err().to_string().contains("`b`"));
    }
}
