//! The weights of a GGUF file under Hugging Face's names, in Hugging Face's order of rows:
//! quantised as they are, or dequantised. Reading bytes and multiplying are done elsewhere.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::config::Architecture;
use super::file::{GgufFile, RawTensor};
use crate::decoder::Matrices;
use crate::quantized::QuantizedMatrix;
use crate::{Decoder, ModelConfig, ModelError, Placement, Tensors};

/// Hugging Face's name of a part of a block, then llama.cpp's, in every architecture.
const PARTS: [(&str, &str); 10] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Where there are norms only before each half of a block.
const TWO_NORMS: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];

/// Where there are norms before and after each half.
const FOUR_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Every weight dequantised, for training.
///
/// # Errors
/// A tensor that is missing, of another shape, or not finite.
pub(crate) fn read_dense(
    file: &GgufFile,
    config: &ModelConfig,
    placement: &Placement,
) -> Result<Tensors, ModelError> {
    let architecture = Architecture::read(file)?;
    let wanted = config.tensors().into_iter();
    wanted
        .map(|(name, shape)| {
            let raw = read(file, (architecture, config), &name, &shape)?;
            let tensor = dense(file, (architecture, placement), &name, &raw)?;
            Ok((name, tensor))
        })
        .collect()
}

/// A decoder whose matrices stay as the file has them; vectors are f32.
///
/// # Errors
/// As [`read_dense`].
pub(crate) fn read_quantized(
    file: &GgufFile,
    config: &ModelConfig,
    device: &Device,
) -> Result<Decoder, ModelError> {
    let architecture = Architecture::read(file)?;
    let placement = Placement { device: device.clone(), ..Placement::cpu(DType::F32) };
    let (mut vectors, mut matrices) = (Tensors::new(), Matrices::new());
    for (name, shape) in config.tensors() {
        let raw = read(file, (architecture, config), &name, &shape)?;
        if shape.len() == 2 {
            matrices.insert(name, Arc::new(QuantizedMatrix::new(raw, device)?));
        } else {
            let tensor = dense(file, (architecture, &placement), &name, &raw)?;
            vectors.insert(name, tensor);
        }
    }
    Decoder::quantized(config.clone(), vectors, matrices)
}

fn read(
    file: &GgufFile,
    (architecture, config): (Architecture, &ModelConfig),
    name: &str,
    shape: &[usize],
) -> Result<RawTensor, ModelError> {
    let found = file_name(architecture, name)
        .ok_or_else(|| file.refused(format!("tensor {name} has no counterpart in a GGUF file")))?;
    let raw = file.tensor(&found, shape)?;
    let turned = match architecture {
        Architecture::Llama if name.contains(".q_proj.") => Some(config.heads),
        Architecture::Llama if name.contains(".k_proj.") => Some(config.kv_heads),
        _ => None,
    };
    Ok(match turned {
        Some(heads) => pairs_to_halves(&raw, heads),
        None => raw,
    })
}

/// llama.cpp's name of a tensor.
fn file_name(architecture: Architecture, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let norms: &[(&str, &str)] = match architecture {
        Architecture::Gemma3 => &FOUR_NORMS,
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => &TWO_NORMS,
    };
    let (_, found) = PARTS.iter().chain(norms).find(|(hub, _)| *hub == part)?;
    Some(format!("blk.{layer}.{found}.{kind}"))
}

fn dense(
    file: &GgufFile,
    (architecture, placement): (Architecture, &Placement),
    name: &str,
    raw: &RawTensor,
) -> Result<candle_core::Tensor, ModelError> {
    let mut tensor = raw.build(&Device::Cpu)?.dequantize(&Device::Cpu)?;
    if architecture == Architecture::Gemma3 && name.ends_with("norm.weight") {
        // llama.cpp's converter folds the 1 of Gemma's (1 + w) into the weight.
        tensor = (tensor - 1.0)?;
    }
    let values = tensor.flatten_all()?;
    let values: Vec<f32> = values.to_vec1()?;
    if let Some(index) = values.iter().position(|x| !x.is_finite()) {
        let (file, tensor) = (file.name(), name.to_owned());
        return Err(ModelError::NotFinite { file, tensor, index });
    }
    placement.place(tensor)
}

/// llama.cpp turns neighbouring values of a head together, Hugging Face value i with i + hd/2; its
/// converter moves the rows of q and k accordingly (`LlamaModel.permute`). This moves them back.
fn pairs_to_halves(raw: &RawTensor, heads: usize) -> RawTensor {
    let (rows, width) = (raw.shape[0], raw.row_bytes());
    let (head, half) = (rows / heads, rows / heads / 2);
    let mut bytes = Vec::with_capacity(raw.bytes.len());
    for row in 0..rows {
        let (start, at) = (row / head * head, row % head);
        let from = start + 2 * (at % half) + at / half;
        bytes.extend_from_slice(&raw.bytes[from * width..(from + 1) * width]);
    }
    RawTensor { dtype: raw.dtype, shape: raw.shape.clone(), bytes }
}
