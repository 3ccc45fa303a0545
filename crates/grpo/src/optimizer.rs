//! AdamW with decoupled weight decay whose whole state can be saved and checked when loaded.
//! Files, clipping and the learning rate's course belong to others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor, Var};

use crate::Error;
use crate::flat::Flat;
#[cfg(feature = "cuda")]
use crate::flat::cuda::CudaFlat;
use crate::gradients::Gradients;
use crate::parameters::{Overlap, Parameters, Slot};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// On matrices; none on biases and norms (rank below 2).
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// What [`AdamW::state`] gave, wherever it is kept.
pub trait SavedState {
    fn names(&self) -> Vec<String>;

    /// Name of the type, and shape; `None` if there is no such tensor.
    fn kind(&self, name: &str) -> Option<(String, Vec<usize>)>;

    /// # Errors
    /// One that cannot be read.
    fn read(&self, name: &str) -> candle_core::Result<Tensor>;
}

impl SavedState for BTreeMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn kind(&self, name: &str) -> Option<(String, Vec<usize>)> {
        self.get(name).map(|tensor| (tensor.dtype().as_str().to_owned(), tensor.dims().to_vec()))
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        self.get(name).cloned().ok_or_else(|| candle_core::Error::msg(format!("no `{name}`")))
    }
}

/// Loshchilov & Hutter, arXiv 1711.05101, algorithm 2. Moments are f32, flat, in the order of
/// the gradient buffer and on its device.
#[derive(Clone, Debug)]
pub struct AdamW {
    parameters: Parameters,
    settings: AdamWSettings,
    step: u64,
    /// The part of the flat order that it updates and whose moments it has.
    part: Range<usize>,
    first: Flat,
    second: Flat,
}

/// Both moments of all variables; with [`AdamW::step_count`] the whole state. It stays as it is
/// when the optimiser goes on, which then copies what is shared.
#[derive(Clone, Debug)]
pub struct OptimizerState {
    slots: Arc<[Slot]>,
    first: Arc<Vec<f32>>,
    second: Arc<Vec<f32>>,
}

const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";

impl AdamW {
    /// # Errors
    /// No memory on the device.
    pub fn new(parameters: Parameters, settings: AdamWSettings) -> Result<Self, Error> {
        let all = 0..parameters.elem_count();
        Self::of_part(parameters, settings, all)
    }

    /// Updates a part of the flat order only: the others are other ranks' business.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn of_part(
        parameters: Parameters,
        settings: AdamWSettings,
        part: Range<usize>,
    ) -> Result<Self, Error> {
        let zeros = || Flat::zeros(part.len(), &parameters.device());
        let (first, second) = (zeros()?, zeros()?);
        Ok(Self { parameters, settings, step: 0, part, first, second })
    }

    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    #[must_use]
    pub fn part(&self) -> &Range<usize> {
        &self.part
    }

    /// Updates taken so far.
    #[must_use]
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// One update of its part of the variables, in place: tensors that share a variable's storage
    /// see it.
    ///
    /// # Errors
    /// Gradients of other parameters, or not finite in its part; nothing is changed then.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<(), Error> {
        if !gradients.is_of(&self.parameters) {
            let (found, expected) = (gradients.elem_count(), self.parameters.elem_count());
            return Err(Error::Length { what: "gradients of other parameters", found, expected });
        }
        gradients.check_finite_in(&self.part)?;
        self.step += 1;
        match (&mut self.first, &mut self.second, gradients.buffer()) {
            (Flat::Host(first), Flat::Host(second), Flat::Host(flat)) => {
                let (first, second) = (Arc::make_mut(first), Arc::make_mut(second));
                update_moments(&self.settings, first, second, &flat[self.part.clone()]);
                self.update_weights(learning_rate)
            }
            #[cfg(feature = "cuda")]
            (Flat::Cuda(_), Flat::Cuda(_), Flat::Cuda(flat)) => {
                self.step_on_cuda(flat, learning_rate)
            }
            #[cfg(feature = "cuda")]
            _ => Err(candle_core::Error::Msg(
                "gradients and moments are on different devices".to_owned(),
            )
            .into()),
        }
    }

    /// 1 / (1 − βᵗ) of both moments.
    fn bias_scales(&self) -> [f32; 2] {
        let AdamWSettings { beta1, beta2, .. } = self.settings;
        [beta1, beta2].map(|beta| (1.0 / (1.0 - beta.powf(self.step as f64))) as f32)
    }

    /// On the host, where the moments have been brought up to date.
    fn update_weights(&self, learning_rate: f64) -> Result<(), Error> {
        let [first_scale, second_scale] = self.bias_scales();
        let (first, second) = (self.first.to_host()?, self.second.to_host()?);
        for (slot, var) in self.parameters.placed() {
            let Some(Overlap { in_slot, in_part }) = slot.overlap(&self.part) else { continue };
            let update = Update {
                elements: in_slot,
                first: &first[in_part.clone()],
                second: &second[in_part],
                first_scale,
                second_scale,
                rate: learning_rate as f32,
                decay: (learning_rate * self.decay_of(slot)) as f32,
                eps: self.settings.eps as f32,
            };
            update.apply(var)?;
        }
        Ok(())
    }

    /// One kernel a variable, which reads gradients and moments and writes moments and weights.
    #[cfg(feature = "cuda")]
    fn step_on_cuda(&self, flat: &CudaFlat, learning_rate: f64) -> Result<(), Error> {
        let (Flat::Cuda(first), Flat::Cuda(second)) = (&self.first, &self.second) else {
            unreachable!("the caller has looked")
        };
        let AdamWSettings { beta1, beta2, eps, .. } = self.settings;
        for (slot, var) in self.parameters.placed() {
            let Some(Overlap { in_slot, in_part }) = slot.overlap(&self.part) else { continue };
            if var.dtype() != DType::F32 || !var.is_contiguous() {
                let dtype = var.dtype().as_str().to_owned();
                return Err(Error::Dtype { name: slot.name.clone(), dtype });
            }
            let start = device::of_tensor(var.as_tensor())?.plus(in_slot.start * size_of::<f32>());
            let update = device::AdamW {
                weights: device::Piece { start, count: in_slot.len() as u64 },
                first: first.at(in_part.start)?,
                second: second.at(in_part.start)?,
                gradients: flat.at(slot.range.start + in_slot.start)?,
                betas: [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(|x| x as f32),
                scales: self.bias_scales(),
                rate: learning_rate as f32,
                decay: (learning_rate * self.decay_of(slot)) as f32,
                eps: eps as f32,
            };
            device::launch(var.device().as_cuda_device()?, &update.call())?;
        }
        Ok(())
    }

    /// The moments, of which all must be its own.
    ///
    /// # Errors
    /// It has a part only.
    pub fn state(&self) -> Result<OptimizerState, Error> {
        let (found, expected) = (self.part.len(), self.parameters.elem_count());
        if found != expected {
            return Err(Error::Length { what: "moments of all variables", found, expected });
        }
        Ok(OptimizerState {
            slots: Arc::clone(self.parameters.slots()),
            first: self.first.shared()?,
            second: self.second.shared()?,
        })
    }

    /// Both moments of its part, in the flat order.
    ///
    /// # Errors
    /// A device that does not give them.
    pub fn moments(&self) -> Result<[Vec<f32>; 2], Error> {
        Ok([self.first.to_host()?.into_owned(), self.second.to_host()?.into_owned()])
    }

    /// Goes on from the moments of another rank, which has taken `step` updates.
    ///
    /// # Errors
    /// Moments of another part; nothing is changed then.
    pub fn set_moments(&mut self, [first, second]: [Vec<f32>; 2], step: u64) -> Result<(), Error> {
        let expected = self.part.len();
        for found in [first.len(), second.len()] {
            if found != expected {
                return Err(Error::Length { what: "moments of another part", found, expected });
            }
        }
        self.first.set(first)?;
        self.second.set(second)?;
        self.step = step;
        Ok(())
    }

    /// The moments of all parts: `gather` completes a buffer in which its part is filled in.
    ///
    /// # Errors
    /// Those of `gather`.
    pub fn gathered_state<E: From<Error>>(
        &self,
        mut gather: impl FnMut(&mut [f32]) -> Result<(), E>,
    ) -> Result<OptimizerState, E> {
        let mut complete = |moments: &[f32]| -> Result<Arc<Vec<f32>>, E> {
            let mut all = vec![0.0; self.parameters.elem_count()];
            all[self.part.clone()].copy_from_slice(moments);
            gather(&mut all)?;
            Ok(Arc::new(all))
        };
        let first = complete(&self.first.to_host()?)?;
        let second = complete(&self.second.to_host()?)?;
        Ok(OptimizerState { slots: Arc::clone(self.parameters.slots()), first, second })
    }

    /// Goes on as if it had taken the `step` updates itself. Moments are read one variable at a time, and
    /// only of the variables that its part has some of.
    ///
    /// # Errors
    /// A name that is missing or not expected, another shape or dtype, a value that is not finite;
    /// the present state is kept then.
    pub fn load_state(&mut self, state: &impl SavedState, step: u64) -> Result<(), Error> {
        let mut first = vec![0.0; self.first.len()];
        let mut second = first.clone();
        let mut expected = BTreeSet::new();
        for slot in self.parameters.slots().iter() {
            for (kind, moments) in [(FIRST, &mut first), (SECOND, &mut second)] {
                let name = state_name(kind, slot);
                check(state, &name, &slot.shape)?;
                if let Some(Overlap { in_slot, in_part }) = slot.overlap(&self.part) {
                    moments[in_part].copy_from_slice(&finite(state, &name)?[in_slot]);
                }
                expected.insert(name);
            }
        }
        if let Some(name) = state.names().into_iter().find(|name| !expected.contains(name)) {
            return Err(Error::StateUnexpected { name });
        }
        self.first.set(first)?;
        self.second.set(second)?;
        self.step = step;
        Ok(())
    }

    fn decay_of(&self, slot: &Slot) -> f64 {
        if slot.shape.len() < 2 { 0.0 } else { self.settings.weight_decay }
    }
}

fn update_moments(
    settings: &AdamWSettings,
    first: &mut [f32],
    second: &mut [f32],
    gradients: &[f32],
) {
    let (beta1, beta2) = (settings.beta1 as f32, settings.beta2 as f32);
    let (rest1, rest2) = ((1.0 - settings.beta1) as f32, (1.0 - settings.beta2) as f32);
    for ((first, second), g) in first.iter_mut().zip(second).zip(gradients) {
        *first = beta1 * *first + rest1 * g;
        *second = beta2 * *second + rest2 * (g * g);
    }
}

impl OptimizerState {
    /// Names, shapes like those of the variables, and numbers.
    pub fn entries(&self) -> impl Iterator<Item = (String, &[usize], &[f32])> {
        let kinds = [(FIRST, &self.first), (SECOND, &self.second)];
        kinds.into_iter().flat_map(|(kind, moments)| {
            self.slots.iter().map(move |slot| {
                let values = &moments[slot.range.clone()];
                (state_name(kind, slot), slot.shape.as_slice(), values)
            })
        })
    }
}

fn state_name(kind: &str, slot: &Slot) -> String {
    format!("{kind}.{}", slot.name)
}

fn check(state: &impl SavedState, name: &str, shape: &[usize]) -> Result<(), Error> {
    let missing = || Error::StateMissing { name: name.to_owned() };
    let (dtype, dims) = state.kind(name).ok_or_else(missing)?;
    if dims == shape && dtype.eq_ignore_ascii_case(DType::F32.as_str()) {
        return Ok(());
    }
    Err(Error::StateShape {
        name: name.to_owned(),
        found: format!("{} {dims:?}", dtype.to_lowercase()),
        expected: format!("f32 {shape:?}"),
    })
}

fn finite(state: &impl SavedState, name: &str) -> Result<Vec<f32>, Error> {
    let values = state.read(name)?.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::StateNotFinite { name: name.to_owned() });
    }
    Ok(values)
}

/// The second half of a step on one variable, after its moments.
struct Update<'a> {
    /// Which of the variable's.
    elements: Range<usize>,
    first: &'a [f32],
    second: &'a [f32],
    first_scale: f32,
    second_scale: f32,
    rate: f32,
    /// Learning rate × weight decay.
    decay: f32,
    eps: f32,
}

impl Update<'_> {
    fn apply(&self, var: &Var) -> Result<(), Error> {
        if var.device().is_cpu() && var.is_contiguous() {
            return Ok(var.inplace_op1(self)?);
        }
        let mut weights = var.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        self.run_f64(&mut weights[self.elements.clone()]);
        let updated = Tensor::from_vec(weights, var.shape(), var.device())?;
        Ok(var.set(&updated.to_dtype(var.dtype())?)?)
    }

    fn run_f32(&self, weights: &mut [f32]) {
        for ((weight, first), second) in weights.iter_mut().zip(self.first).zip(self.second) {
            *weight -= self.change(*weight, *first, *second);
        }
    }

    fn run_f64(&self, weights: &mut [f64]) {
        for ((weight, first), second) in weights.iter_mut().zip(self.first).zip(self.second) {
            *weight -= f64::from(self.change(*weight as f32, *first, *second));
        }
    }

    #[inline]
    fn change(&self, weight: f32, first: f32, second: f32) -> f32 {
        let denominator = (second * self.second_scale).sqrt() + self.eps;
        self.decay * weight + self.rate * (first * self.first_scale / denominator)
    }
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("adamw-update needs a contiguous variable");
        };
        match storage {
            CpuStorage::F32(weights) => {
                self.run_f32(&mut weights[start..end][self.elements.clone()]);
            }
            CpuStorage::F64(weights) => {
                self.run_f64(&mut weights[start..end][self.elements.clone()]);
            }
            _ => candle_core::bail!("adamw-update needs an f32 or f64 variable"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
