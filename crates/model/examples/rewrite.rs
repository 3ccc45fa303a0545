//! Reads a model directory and writes it again, for `tests/parity/check.py`: what is written is
//! what checkpoints and exports consist of. Runs are exported by the coordinator.

use std::error::Error;
use std::path::Path;

use candle_core::DType;
use model::{ModelSource, Placement, to_safetensors, write_directory};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, dtype] = args.as_slice() else {
        return Err("usage: rewrite FROM TO f32|f16|bf16".into());
    };
    let dtype = match dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("{other:?} is not written: f32, f16 or bf16").into()),
    };
    let files = ModelSource::parse(from)?.load(0, &Placement::cpu(dtype))?;
    write_directory(Path::new(to), &files.texts()?, &to_safetensors(&files.tensors)?)?;
    Ok(())
}
