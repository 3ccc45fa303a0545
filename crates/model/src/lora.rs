//! LoRA (Hu et al., arXiv 2106.09685): changes of low rank beside frozen weights, made, put on and
//! merged. Training and keeping them is the learner's.

use candle_core::{Device, Tensor};

use crate::linear::Adapter;
use crate::{Decoder, ModelConfig, ModelError, Tensors};

/// Which linear layers get an adapter, and of what size.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSettings {
    /// At least 1.
    pub rank: usize,
    /// The change is weighed by alpha / rank.
    pub alpha: f64,
    /// Last parts of layers' names, such as `q_proj`.
    pub targets: Vec<String>,
}

fn name_of_a(layer: &str) -> String {
    format!("{layer}.lora_A.weight")
}

fn name_of_b(layer: &str) -> String {
    format!("{layer}.lora_B.weight")
}

impl LoraSettings {
    /// The adapters `A` `[rank, in]` and `B` `[out, rank]` that training starts from, in f32 on the
    /// CPU: A uniform within ±1/√in (Kaiming's bound with slope √5, as usual for LoRA), B zero, so
    /// that nothing is changed at first.
    ///
    /// # Errors
    /// A target that no layer of the model is named after.
    pub fn start(&self, config: &ModelConfig, seed: u64) -> Result<Tensors, ModelError> {
        let mut adapters = Tensors::new();
        let mut met = vec![false; self.targets.len()];
        for (name, shape) in config.tensors() {
            let Some(layer) = name.strip_suffix(".weight") else { continue };
            let last = layer.rsplit('.').next();
            let target = self.targets.iter().position(|target| last == Some(target));
            let (Some(target), &[out, input]) = (target, shape.as_slice()) else { continue };
            met[target] = true;
            let a_name = name_of_a(layer);
            let bound = (input as f64).powf(-0.5);
            let numbers = miniature::uniform_elements(seed, &a_name, self.rank * input);
            let a: Vec<f32> = numbers.iter().map(|u| ((2.0 * u - 1.0) * bound) as f32).collect();
            adapters.insert(a_name, Tensor::from_vec(a, (self.rank, input), &Device::Cpu)?);
            let b = Tensor::from_vec(vec![0f32; out * self.rank], (out, self.rank), &Device::Cpu)?;
            adapters.insert(name_of_b(layer), b);
        }
        match met.iter().position(|met| !met) {
            Some(missing) => Err(ModelError::Input(format!(
                "no linear layer of the model is called {:?}: name some of q_proj, k_proj, v_proj, \
                 o_proj, gate_proj, up_proj, down_proj",
                self.targets[missing]
            ))),
            None => Ok(adapters),
        }
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

impl Decoder {
    /// The same weights with these adapters beside them.
    ///
    /// # Errors
    /// An adapter that is not whole, or that no layer has.
    pub fn with_adapters(
        &self,
        adapters: Tensors,
        settings: &LoraSettings,
    ) -> Result<Self, ModelError> {
        let (scale, given) = (settings.scale(), adapters.clone());
        let mut used = 0;
        let decoder = self.with_linears(adapters, |layer, linear| {
            let pair = (given.get(&name_of_a(layer)), given.get(&name_of_b(layer)));
            linear.adapter = match pair {
                (Some(a), Some(b)) => Some(Adapter { a: a.clone(), b: b.clone(), scale }),
                _ => None,
            };
            used += 2 * usize::from(linear.adapter.is_some());
        });
        if used != given.len() {
            let (foreign, all) = (given.len() - used, given.len());
            let what = format!("{foreign} of {all} adapter tensors fit no layer of the model");
            return Err(ModelError::Input(what));
        }
        Ok(decoder)
    }

    /// The same weights alone; nothing is copied.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        self.with_linears(Tensors::new(), |_, linear| linear.adapter = None)
    }

    /// The tensors of a model without adapters that computes the same, all of the decoder's type;
    /// what has no adapter and is of that type is shared, the others are on the CPU.
    ///
    /// # Errors
    /// No memory.
    pub fn merged(&self) -> Result<Tensors, ModelError> {
        let mut adapted = Vec::new();
        self.with_linears(Tensors::new(), |layer, linear| {
            if linear.adapter.is_some() {
                adapted.push((format!("{layer}.weight"), linear.clone()));
            }
        });
        // One at a time: a device need not hold all of them beside the base.
        let mut tensors = Tensors::new();
        for (name, linear) in adapted {
            tensors.insert(name, linear.merged()?.to_device(&Device::Cpu)?);
        }
        for (name, tensor) in self.tensors() {
            if tensors.contains_key(name) {
                continue;
            }
            let shared = tensor.dtype() == self.dtype();
            let place = if shared { tensor.device() } else { &Device::Cpu };
            let tensor = tensor.to_device(place)?.to_dtype(self.dtype())?;
            tensors.insert(name.clone(), tensor);
        }
        Ok(tensors)
    }
}
