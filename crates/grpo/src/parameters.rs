//! The trained variables in name order, each with its place in the flat gradient buffer.
//! Reading them from files and publishing them is done elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};

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

    /// Copies the numbers of a part of the flat order out.
    ///
    /// # Errors
    /// Another length than the part's; candle's otherwise.
    pub fn read(&self, part: &Range<usize>, to: &mut [f32]) -> Result<(), Error> {
        check_len(part, to.len())?;
        for (slot, var) in self.placed() {
            let Some(Overlap { in_slot, in_part }) = slot.overlap(part) else { continue };
            let flat = var.as_tensor().flatten_all()?;
            let values = flat.narrow(0, in_slot.start, in_slot.len())?.to_dtype(DType::F32)?;
            to[in_part].copy_from_slice(&values.to_vec1::<f32>()?);
        }
        Ok(())
    }

    /// Puts numbers in the place of a part of the flat order: tensors that share a variable's
    /// storage see it.
    ///
    /// # Errors
    /// As [`Parameters::read`].
    pub fn write(&self, part: &Range<usize>, from: &[f32]) -> Result<(), Error> {
        check_len(part, from.len())?;
        for (slot, var) in self.placed() {
            let Some(Overlap { in_slot, in_part }) = slot.overlap(part) else { continue };
            if !var.device().is_cpu() {
                let flat = var.as_tensor().flatten_all()?;
                let (first, end) = (in_slot.start, in_slot.end);
                let own = Tensor::from_slice(&from[in_part], in_slot.len(), var.device())?;
                let after = flat.narrow(0, end, flat.elem_count() - end)?;
                let parts = [flat.narrow(0, 0, first)?, own.to_dtype(var.dtype())?, after];
                var.set(&Tensor::cat(&parts, 0)?.reshape(var.shape())?)?;
                continue;
            }
            var.inplace_op1(&Overwrite { first: in_slot.start, values: &from[in_part] })?;
        }
        Ok(())
    }

    /// Of the variables; the host's where there is none.
    #[must_use]
    pub fn device(&self) -> Device {
        self.vars.first().map_or(Device::Cpu, |var| var.device().clone())
    }

    pub(crate) fn slots(&self) -> &Arc<[Slot]> {
        &self.slots
    }

    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Slot, &Var)> {
        self.slots.iter().zip(&self.vars)
    }
}

fn check_len(part: &Range<usize>, found: usize) -> Result<(), Error> {
    let expected = part.len();
    match found == expected {
        true => Ok(()),
        false => Err(Error::Length { what: "a part of the parameters", found, expected }),
    }
}

/// The numbers that a variable and a part of the flat order have in common, as each counts them.
pub(crate) struct Overlap {
    pub(crate) in_slot: Range<usize>,
    pub(crate) in_part: Range<usize>,
}

impl Slot {
    pub(crate) fn overlap(&self, part: &Range<usize>) -> Option<Overlap> {
        let (start, end) = (self.range.start.max(part.start), self.range.end.min(part.end));
        (start < end).then(|| Overlap {
            in_slot: start - self.range.start..end - self.range.start,
            in_part: start - part.start..end - part.start,
        })
    }
}

struct Overwrite<'a> {
    /// Of the variable's elements.
    first: usize,
    values: &'a [f32],
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("overwrite needs a contiguous variable");
        };
        match storage {
            CpuStorage::F32(to) => {
                to[start..end][self.first..][..self.values.len()].copy_from_slice(self.values);
            }
            CpuStorage::F64(to) => {
                let to = &mut to[start..end][self.first..];
                to.iter_mut().zip(self.values).for_each(|(to, value)| *to = f64::from(*value));
            }
            _ => candle_core::bail!("overwrite needs an f32 or f64 variable"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn parts_are_read_and_written_across_variables() {
        for dtype in [DType::F32, DType::F64] {
            let var = |values: &[f32], shape: &[usize]| {
                let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
                Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
            };
            let a = var(&[1.0, 2.0, 3.0], &[3]);
            let shared = a.as_tensor().clone();
            let b = var(&[4.0, 5.0, 6.0, 7.0], &[2, 2]);
            let vars = [("a".to_owned(), a), ("b".to_owned(), b)];
            let parameters = Parameters::new(vars.into()).unwrap();
            let mut found = [0.0; 4];
            parameters.read(&(2..6), &mut found).unwrap();
            assert_eq!(found, [3.0, 4.0, 5.0, 6.0]);
            parameters.write(&(1..4), &[-2.0, -3.0, -4.0]).unwrap();
            let mut all = [0.0; 7];
            parameters.read(&(0..7), &mut all).unwrap();
            assert_eq!(all, [1.0, -2.0, -3.0, -4.0, 5.0, 6.0, 7.0]);
            let shared = shared.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(shared, [1.0, -2.0, -3.0]);
            assert!(parameters.read(&(2..5), &mut found).is_err());
        }
    }

    #[test]
    fn half_precision_masters_are_refused() {
        let half = Tensor::zeros(2, DType::BF16, &Device::Cpu).unwrap();
        let vars = [("w".to_owned(), Var::from_tensor(&half).unwrap())];
        let error = Parameters::new(vars.into()).expect_err("must be refused").to_string();
        assert!(error.contains("`w` is bf16"), "{error}");
    }
}
