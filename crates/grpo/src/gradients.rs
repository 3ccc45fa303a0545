//! All gradients of a step in one flat f32 buffer, in name order: what the ranks all-reduce.
//! Backward passes happen outside; applying the result is the optimiser's.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

use crate::Error;
use crate::flat::Flat;
use crate::parameters::{Parameters, Slot};

#[derive(Clone, Debug)]
pub struct Gradients {
    slots: Arc<[Slot]>,
    flat: Flat,
}

impl Gradients {
    /// Where a step's sum begins; also what a rank without tokens contributes. On the variables'
    /// device.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn zeros(parameters: &Parameters) -> Result<Self, Error> {
        let flat = Flat::zeros(parameters.elem_count(), &parameters.device())?;
        Ok(Self { slots: Arc::clone(parameters.slots()), flat })
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
            self.flat.add(slot.range.clone(), gradient)?;
        }
        self.check_finite()
    }

    /// Adds a part of one variable's gradient, `[n, ..]`, from row `first` on.
    ///
    /// # Errors
    /// A name that no variable has, a part that reaches beyond the variable.
    pub fn add(&mut self, name: &str, first: usize, part: &Tensor) -> Result<(), Error> {
        let (range, width) = self.place(name)?;
        let start = first * width;
        let (end, expected) = (start + part.elem_count(), range.len());
        if end > expected {
            let what = "part of a variable's gradient";
            return Err(Error::Length { what, found: end, expected });
        }
        self.flat.add(range.start + start..range.start + end, part)
    }

    /// Adds row i of `part`, `[n,d]`, to row `rows[i]` of one variable's gradient, `[_,d]`.
    ///
    /// # Errors
    /// As [`Gradients::add`].
    pub fn add_rows(&mut self, name: &str, rows: &[u32], part: &Tensor) -> Result<(), Error> {
        let (range, width) = self.place(name)?;
        let what = "rows of a variable's gradient";
        if part.elem_count() != rows.len() * width {
            let (found, expected) = (part.elem_count(), rows.len() * width);
            return Err(Error::Length { what, found, expected });
        }
        let count = range.len() / width.max(1);
        if let Some(row) = rows.iter().find(|row| **row as usize >= count) {
            let found = (*row as usize + 1) * width;
            return Err(Error::Length { what, found, expected: range.len() });
        }
        if part.device().is_cpu() {
            let values = part.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            return self.flat.on_host(|flat| {
                let sum = &mut flat[range];
                for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
                    let sum = &mut sum[*row as usize * width..][..width];
                    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
                Ok(())
            });
        }
        self.flat.add_rows_on_device(range.start, rows, part)
    }

    /// A variable's place, and how many numbers one of its rows has.
    fn place(&self, name: &str) -> Result<(Range<usize>, usize), Error> {
        let found = self.slots.binary_search_by(|slot| slot.name.as_str().cmp(name));
        let slot = found.map(|index| &self.slots[index]);
        let slot = slot.map_err(|_| Error::UnknownVariable { name: name.to_owned() })?;
        Ok((slot.range.clone(), slot.shape.iter().skip(1).product()))
    }

    /// Numbers of all variables together.
    #[must_use]
    pub fn elem_count(&self) -> usize {
        self.flat.len()
    }

    /// In name order, each variable's numbers in row-major order; copied from a device.
    ///
    /// # Errors
    /// A failing device.
    pub fn flat(&self) -> Result<Cow<'_, [f32]>, Error> {
        self.flat.to_host()
    }

    /// For the sums over ranks: calls `change` with the numbers on the host and takes back what it
    /// leaves.
    ///
    /// # Errors
    /// Those of `change`; the numbers are not to be used then.
    pub fn on_host<T, E: From<Error>>(
        &mut self,
        change: impl FnOnce(&mut [f32]) -> Result<T, E>,
    ) -> Result<T, E> {
        self.flat.on_host(change)
    }

    /// The buffer on a CUDA device, where it is there, to be summed in place.
    #[must_use]
    pub fn on_device(&self) -> Option<&Tensor> {
        match &self.flat {
            Flat::Host(_) => None,
            #[cfg(feature = "cuda")]
            Flat::Cuda(flat) => Some(flat.tensor()),
        }
    }

    /// # Errors
    /// The first gradient, by name, that has a value which is not finite.
    pub fn check_finite(&self) -> Result<(), Error> {
        self.check_finite_in(&(0..self.flat.len()))
    }

    /// The same of a part of the buffer.
    ///
    /// # Errors
    /// As [`Gradients::check_finite`].
    pub fn check_finite_in(&self, part: &Range<usize>) -> Result<(), Error> {
        // A sum of squares in f64 is finite exactly when all of the numbers are.
        if self.flat.squares(part)?.is_finite() {
            return Ok(());
        }
        for slot in self.slots.iter() {
            let range = slot.range.start.max(part.start)..slot.range.end.min(part.end);
            if !range.is_empty() && !self.flat.squares(&range)?.is_finite() {
                return Err(Error::GradientNotFinite { name: slot.name.clone() });
            }
        }
        Ok(())
    }

    /// Euclidean, over all variables, summed in f64.
    ///
    /// # Errors
    /// A failing device.
    pub fn global_norm(&self) -> Result<f64, Error> {
        Ok(self.squares_in(&(0..self.flat.len()))?.sqrt())
    }

    /// Σ of the squares of a part of the buffer, in f64: parts add up to the square of the norm.
    ///
    /// # Errors
    /// A failing device.
    pub fn squares_in(&self, part: &Range<usize>) -> Result<f64, Error> {
        self.flat.squares(part)
    }

    /// Scales a part of the buffer so that a global norm of `norm` becomes at most `max`.
    ///
    /// # Errors
    /// A failing device.
    pub fn clip_in(&mut self, part: &Range<usize>, norm: f64, max: f64) -> Result<(), Error> {
        match norm > max {
            true => self.flat.scale(part, (max / norm) as f32),
            false => Ok(()),
        }
    }

    /// Scales everything so that the global norm is at most `max`; returns the norm before.
    ///
    /// # Errors
    /// A gradient that is not finite.
    pub fn clip_global_norm(&mut self, max: f64) -> Result<f64, Error> {
        let norm = self.global_norm()?;
        if !norm.is_finite() {
            self.check_finite()?;
        }
        self.clip_in(&(0..self.flat.len()), norm, max)?;
        Ok(norm)
    }

    #[cfg(test)]
    pub(crate) fn flat_mut(&mut self) -> &mut [f32] {
        match &mut self.flat {
            Flat::Host(values) => std::sync::Arc::make_mut(values).as_mut_slice(),
            #[cfg(feature = "cuda")]
            Flat::Cuda(_) => panic!("the tests' variables are on the host"),
        }
    }

    pub(crate) fn buffer(&self) -> &Flat {
        &self.flat
    }

    pub(crate) fn is_of(&self, parameters: &Parameters) -> bool {
        Arc::ptr_eq(&self.slots, parameters.slots()) || self.slots == *parameters.slots()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

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
            let mut gradients = Gradients::zeros(&p).unwrap();
            gradients.accumulate(&p, &store).unwrap();
            assert_eq!(*gradients.flat().unwrap(), [6.0, 8.0, 7.0]);
            gradients.accumulate(&p, &store).unwrap();
            assert_eq!(*gradients.flat().unwrap(), [12.0, 16.0, 14.0]);
        }
    }

    #[test]
    fn parts_and_rows_land_in_their_variable() {
        let var = |shape: &[usize]| Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let vars = [("w".to_owned(), var(&[3, 2])), ("b".to_owned(), var(&[2]))];
        let p = Parameters::new(vars.into()).unwrap();
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let mut gradients = Gradients::zeros(&p).unwrap();
        gradients.add("w", 1, &tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2])).unwrap();
        gradients.add("b", 0, &tensor(&[5.0, 6.0], &[2])).unwrap();
        // A view, and a row that comes twice.
        let turned = tensor(&[10.0, 20.0, 30.0, 40.0, 50.0, 60.0], &[2, 3]).t().unwrap();
        gradients.add_rows("w", &[2, 0, 2], &turned).unwrap();
        assert_eq!(*gradients.flat().unwrap(), [5.0, 6.0, 20.0, 50.0, 1.0, 2.0, 43.0, 104.0]);
        let error = gradients.add("w", 2, &turned).unwrap_err().to_string();
        assert!(error.contains("10 entries where 6"), "{error}");
        assert!(gradients.add_rows("w", &[3], &tensor(&[0.0, 0.0], &[1, 2])).is_err());
        assert!(gradients.add_rows("w", &[0], &turned).is_err());
        let error = gradients.add("v", 0, &turned).unwrap_err().to_string();
        assert!(error.contains("no variable `v`"), "{error}");
    }

    #[test]
    fn parts_of_the_buffer_are_measured_and_clipped_alone() {
        let p = parameters(DType::F32);
        let mut gradients = Gradients::zeros(&p).unwrap();
        gradients.flat_mut().copy_from_slice(&[3.0, f32::NAN, 4.0]);
        assert_eq!(
            (gradients.squares_in(&(2..3)).unwrap(), gradients.squares_in(&(0..1)).unwrap()),
            (16.0, 9.0)
        );
        gradients.check_finite_in(&(2..3)).unwrap();
        gradients.check_finite_in(&(0..1)).unwrap();
        let error = gradients.check_finite_in(&(1..3)).unwrap_err().to_string();
        assert!(error.contains("`a`"), "{error}");
        gradients.clip_in(&(0..1), 5.0, 2.5).unwrap();
        assert_eq!((gradients.flat().unwrap()[0], gradients.flat().unwrap()[2]), (1.5, 4.0));
    }

    #[test]
    fn a_hidden_variable_and_a_broken_gradient_are_named() {
        let p = parameters(DType::F32);
        let store = var(&p, "a").sum_all().unwrap().backward().unwrap();
        let error =
            Gradients::zeros(&p).unwrap().accumulate(&p, &store).expect_err("`b` is hidden");
        assert!(error.to_string().contains("`b` has no gradient"), "{error}");
        let root = ((var(&p, "b") - 5.0).unwrap().sqrt().unwrap().sum_all().unwrap()
            + var(&p, "a").sum_all().unwrap())
        .unwrap();
        let store = root.backward().unwrap();
        let error =
            Gradients::zeros(&p).unwrap().accumulate(&p, &store).expect_err("infinite slope");
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
        let mut gradients = Gradients::zeros(&p).unwrap();
        gradients.accumulate(&p, &loss.backward().unwrap()).unwrap();
        let norm = gradients.clip_global_norm(1.0).unwrap();
        assert!((norm - 18.0_f64.sqrt()).abs() < 1e-9);
        assert!((gradients.global_norm().unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(gradients.flat().unwrap()[0], gradients.flat().unwrap()[1]);
        let before = gradients.clone();
        gradients.clip_global_norm(5.0).unwrap();
        assert_eq!(
            gradients.flat().unwrap(),
            before.flat().unwrap(),
            "a small gradient is left as it is"
        );
        gradients.flat_mut()[2] = f32::NAN;
        assert!(gradients.clip_global_norm(1.0).unwrap_err().to_string().contains("`b`"));
    }
}
