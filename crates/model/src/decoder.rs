//! One set of weights with its configuration, shared by the training forward and the decode engine.
//! Neither forward pass lives here.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::{ModelConfig, ModelError, Tensors};

/// Cheap to clone. Built from the tensors of `Var`s, it sees what an optimiser writes into them.
#[derive(Clone, Debug)]
pub struct Decoder(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    config: ModelConfig,
    tensors: Tensors,
    layers: Vec<Layer>,
    embedding: Tensor,
    norm: Tensor,
    head: Tensor,
}

/// A linear layer, `weight` is `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: Tensor,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) mlp_norm: Tensor,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl Decoder {
    /// # Errors
    /// A tensor missing or of another shape than the configuration says.
    pub fn new(config: ModelConfig, tensors: Tensors) -> Result<Self, ModelError> {
        let file = "the decoder's tensors";
        for (name, shape) in config.tensors() {
            let Some(tensor) = tensors.get(&name) else {
                return Err(ModelError::MissingTensor { file: file.to_owned(), tensor: name });
            };
            if tensor.dims() != shape {
                let (file, found) = (file.to_owned(), tensor.dims().to_vec());
                return Err(ModelError::Shape { file, tensor: name, found, expected: shape });
            }
        }
        let get = |name: &str| tensors[name].clone();
        let layers = (0..config.layers).map(|index| Layer::new(&tensors, index)).collect();
        let embedding = get("model.embed_tokens.weight");
        let norm = get("model.norm.weight");
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => get("lm_head.weight"),
        };
        Ok(Self(Arc::new(Parts { config, layers, embedding, norm, head, tensors })))
    }

    /// A copy that later writes to the variables do not reach and that carries no gradient.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn frozen(&self) -> Result<Self, ModelError> {
        let copy = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.detach().copy()?));
        let tensors = self.0.tensors.iter().map(copy).collect::<candle_core::Result<_>>()?;
        Self::new(self.0.config.clone(), tensors)
    }

    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    #[must_use]
    pub fn tensors(&self) -> &Tensors {
        &self.0.tensors
    }

    #[must_use]
    pub fn dtype(&self) -> DType {
        self.0.embedding.dtype()
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        self.0.embedding.device()
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.0.layers
    }

    /// `[V, d]`
    pub(crate) fn embedding(&self) -> &Tensor {
        &self.0.embedding
    }

    /// Of the last hidden state, `[d]`.
    pub(crate) fn norm(&self) -> &Tensor {
        &self.0.norm
    }

    /// `[V, d]`
    pub(crate) fn head(&self) -> &Tensor {
        &self.0.head
    }
}

impl Layer {
    fn new(tensors: &Tensors, index: usize) -> Self {
        let get = |name: &str| tensors[&format!("model.layers.{index}.{name}.weight")].clone();
        let bias = |name: &str| tensors.get(&format!("model.layers.{index}.{name}.bias")).cloned();
        let linear = |name: &str| Linear { weight: get(name), bias: bias(name) };
        Self {
            input_norm: get("input_layernorm"),
            q: linear("self_attn.q_proj"),
            k: linear("self_attn.k_proj"),
            v: linear("self_attn.v_proj"),
            o: linear("self_attn.o_proj"),
            mlp_norm: get("post_attention_layernorm"),
            gate: linear("mlp.gate_proj"),
            up: linear("mlp.up_proj"),
            down: linear("mlp.down_proj"),
        }
    }
}

impl Linear {
    /// One layer with the outputs of all, in order. Gradients reach each of them.
    pub(crate) fn fuse(parts: &[&Self]) -> candle_core::Result<Self> {
        let weights: Vec<&Tensor> = parts.iter().map(|p| &p.weight).collect();
        let biases: Vec<&Tensor> = parts.iter().filter_map(|p| p.bias.as_ref()).collect();
        let bias = (biases.len() == parts.len()).then(|| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias })
    }

    /// `[N, in]` to `[N, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
