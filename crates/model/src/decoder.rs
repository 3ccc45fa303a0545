//! One set of weights with its configuration, shared by the training forward and the decode engine.
//! Neither forward pass lives here.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::block::{After, HeadNorms, Norm, Norms, Scale};
use crate::linear::{Linear, Weight};
use crate::quantized::QuantizedMatrix;
use crate::{ModelConfig, ModelError, Tensors};

/// Quantised weights by Hugging Face name.
pub(crate) type Matrices = BTreeMap<String, Arc<QuantizedMatrix>>;

/// Cheap to clone. Built from the tensors of `Var`s, it sees what an optimiser writes into them.
#[derive(Clone, Debug)]
pub struct Decoder(Arc<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    config: ModelConfig,
    tensors: Tensors,
    /// Changes to some of the layers, which hold them too.
    adapters: Tensors,
    layers: Vec<Layer>,
    embedding: Weight,
    norm: Norm,
    head: Linear,
    /// What the training forward computes in.
    computing: DType,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) norms: Norms,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl Decoder {
    /// # Errors
    /// A tensor missing or of another shape than the configuration says.
    pub fn new(config: ModelConfig, tensors: Tensors) -> Result<Self, ModelError> {
        Self::quantized(config, tensors, Matrices::new())
    }

    /// What is not among `matrices` is taken from `tensors`, f32 where there are any matrices. It is
    /// decoded with, not trained: no gradient passes a quantised weight.
    pub(crate) fn quantized(
        config: ModelConfig,
        tensors: Tensors,
        matrices: Matrices,
    ) -> Result<Self, ModelError> {
        check(&config, &tensors, &matrices)?;
        let weight = |name: &str| match matrices.get(name) {
            Some(matrix) => Weight::Quantized(vec![matrix.clone()]),
            None => Weight::Dense(tensors[name].clone()),
        };
        let layer = |index| Layer::new(&config, &tensors, &weight, index);
        let layers = (0..config.layers).map(layer).collect();
        let embedding = weight("model.embed_tokens.weight");
        let norm = config_norm(&config, tensors["model.norm.weight"].clone());
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => weight("lm_head.weight"),
        };
        // Rows that only pad the vocabulary are no logits: every reader counts the same tokens.
        let head = Linear::new(head.first_rows(config.ids)?, None);
        let adapters = Tensors::new();
        let computing = norm.weight.dtype();
        let parts = Parts { config, layers, embedding, norm, head, tensors, adapters, computing };
        Ok(Self(Arc::new(parts)))
    }

    /// The same weights, of which the training forward computes in `dtype`: they are rounded to it
    /// where they are read, and their gradients come in their own type.
    #[must_use]
    pub fn computing_in(&self, dtype: DType) -> Self {
        Self(Arc::new(Parts { computing: dtype, ..(*self.0).clone() }))
    }

    /// What the engine multiplies with. Where this is the last decoder of its weights, each is held
    /// here only.
    pub(crate) fn into_weights(self) -> (Vec<Layer>, Weight, Norm, Linear) {
        let Parts { layers, embedding, norm, head, .. } = Arc::unwrap_or_clone(self.0);
        (layers, embedding, norm, head)
    }

    #[must_use]
    pub fn computing(&self) -> DType {
        self.0.computing
    }

    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// All but quantised weights.
    #[must_use]
    pub fn tensors(&self) -> &Tensors {
        &self.0.tensors
    }

    /// Those of its tensors that can be trained.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let all = self.0.tensors.iter().chain(&self.0.adapters);
        all.filter(|(_, tensor)| tensor.is_variable()).map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// None where it is not trained.
    pub(crate) fn variable_name(&self, tensor: &Tensor) -> Option<&str> {
        self.variables().find(|(_, variable)| variable.id() == tensor.id()).map(|(name, _)| name)
    }

    #[must_use]
    pub fn dtype(&self) -> DType {
        self.0.norm.weight.dtype()
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        self.0.norm.weight.device()
    }

    /// By their names in an adapter file; none without LoRA.
    #[must_use]
    pub fn adapters(&self) -> &Tensors {
        &self.0.adapters
    }

    /// The same weights, with `change` made to every linear layer of every block; it is given the
    /// layer's full name.
    pub(crate) fn with_linears(
        &self,
        adapters: Tensors,
        mut change: impl FnMut(&str, &mut Linear),
    ) -> Self {
        let mut parts = Parts { adapters, ..(*self.0).clone() };
        for (index, layer) in parts.layers.iter_mut().enumerate() {
            for (name, linear) in layer.linears() {
                change(&format!("model.layers.{index}.{name}"), linear);
            }
        }
        Self(Arc::new(parts))
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.0.layers
    }

    /// `[V, d]`
    pub(crate) fn embedding(&self) -> &Weight {
        &self.0.embedding
    }

    /// Of the last hidden state.
    pub(crate) fn norm(&self) -> &Norm {
        &self.0.norm
    }

    /// `[V, d]`, rows that pad the vocabulary included.
    ///
    /// # Errors
    /// A quantised one.
    pub(crate) fn head_matrix(&self) -> candle_core::Result<&Tensor> {
        let own = self.0.tensors.get("lm_head.weight").map(Ok);
        own.unwrap_or_else(|| self.0.embedding.dense())
    }

    /// `[N,d]` to logits `[N,V]` of the ids that can be written.
    pub(crate) fn head(&self) -> &Linear {
        &self.0.head
    }
}

impl Layer {
    fn linears(&mut self) -> [(&'static str, &mut Linear); 7] {
        [
            ("self_attn.q_proj", &mut self.q),
            ("self_attn.k_proj", &mut self.k),
            ("self_attn.v_proj", &mut self.v),
            ("self_attn.o_proj", &mut self.o),
            ("mlp.gate_proj", &mut self.gate),
            ("mlp.up_proj", &mut self.up),
            ("mlp.down_proj", &mut self.down),
        ]
    }

    fn new(
        config: &ModelConfig,
        tensors: &Tensors,
        weight: &impl Fn(&str) -> Weight,
        index: usize,
    ) -> Self {
        let full = |name: &str| format!("model.layers.{index}.{name}.weight");
        let get = |name: &str| tensors[&full(name)].clone();
        let bias = |name: &str| tensors.get(&format!("model.layers.{index}.{name}.bias")).cloned();
        let linear = |name: &str| Linear::new(weight(&full(name)), bias(name));
        let norm = |name: &str| config_norm(config, get(name));
        let mlp = match config.post_norms {
            true => "pre_feedforward_layernorm",
            false => "post_attention_layernorm",
        };
        let after = config.post_norms.then(|| After {
            attention: norm("post_attention_layernorm"),
            mlp: norm("post_feedforward_layernorm"),
        });
        let heads = config
            .qk_norm
            .then(|| HeadNorms { q: norm("self_attn.q_norm"), k: norm("self_attn.k_norm") });
        Self {
            norms: Norms { attention: norm("input_layernorm"), mlp: norm(mlp), after, heads },
            q: linear("self_attn.q_proj"),
            k: linear("self_attn.k_proj"),
            v: linear("self_attn.v_proj"),
            o: linear("self_attn.o_proj"),
            gate: linear("mlp.gate_proj"),
            up: linear("mlp.up_proj"),
            down: linear("mlp.down_proj"),
        }
    }
}

fn config_norm(config: &ModelConfig, weight: Tensor) -> Norm {
    let scale = if config.norm_offset { Scale::OnePlusWeight } else { Scale::Weight };
    Norm { weight, eps: config.rms_norm_eps, scale }
}

fn check(config: &ModelConfig, tensors: &Tensors, matrices: &Matrices) -> Result<(), ModelError> {
    let file = "the decoder's tensors";
    for (name, shape) in config.tensors() {
        let found = match (matrices.get(&name), tensors.get(&name)) {
            (Some(matrix), _) => matrix.dims().to_vec(),
            (None, Some(tensor)) => tensor.dims().to_vec(),
            (None, None) => {
                return Err(ModelError::MissingTensor { file: file.to_owned(), tensor: name });
            }
        };
        if found != shape {
            let file = file.to_owned();
            return Err(ModelError::Shape { file, tensor: name, found, expected: shape });
        }
    }
    Ok(())
}
