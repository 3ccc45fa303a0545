//! Named tensors to and from safetensors bytes, checked against a configuration. Where the bytes
//! come from and go to is not decided here.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, TensorView, View};
use types::{Dtype, Hash, PolicyVersion, TensorInfo, WeightManifest, check_header};

use crate::{ModelConfig, ModelError};

/// Tensors by Hugging Face name, in a fixed order.
pub type Tensors = BTreeMap<String, Tensor>;

/// Element type and device that weights are brought to.
#[derive(Clone, Debug)]
pub struct Placement {
    pub dtype: DType,
    pub device: Device,
    /// Of matrices, where it is another.
    pub matrices: Option<DType>,
}

impl Placement {
    #[must_use]
    pub fn cpu(dtype: DType) -> Self {
        Self { dtype, device: Device::Cpu, matrices: None }
    }

    /// A tensor as it is to be and where.
    pub(crate) fn place(&self, tensor: Tensor) -> Result<Tensor, ModelError> {
        let dtype = match tensor.dims().len() {
            2 => self.matrices.unwrap_or(self.dtype),
            _ => self.dtype,
        };
        Ok(tensor.to_dtype(dtype)?.to_device(&self.device)?)
    }
}

/// Exactly the tensors of `config`; others in the file are left alone.
///
/// # Errors
/// Corrupt bytes; a tensor missing, of another shape, of an unknown type or not finite. `file`
/// names the bytes in errors.
pub fn load(
    config: &ModelConfig,
    bytes: &[u8],
    file: &str,
    placement: &Placement,
) -> Result<Tensors, ModelError> {
    let parsed = parse(bytes, file)?;
    let wanted = config.tensors();
    wanted
        .into_iter()
        .map(|(name, shape)| {
            let tensor = read_tensor(&parsed, (&name, &shape), file, placement)?;
            Ok((name, tensor))
        })
        .collect()
}

/// Every tensor of the file, whatever its name.
///
/// # Errors
/// Corrupt bytes; a tensor of an unknown type or not finite.
pub fn from_safetensors(
    bytes: &[u8],
    file: &str,
    placement: &Placement,
) -> Result<Tensors, ModelError> {
    let parsed = parse(bytes, file)?;
    parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let tensor = to_tensor(&name, &view, file, placement)?;
            Ok((name, tensor))
        })
        .collect()
}

/// The same tensors always give the same bytes.
///
/// # Errors
/// An element type that safetensors does not hold.
pub fn to_safetensors(tensors: &Tensors) -> Result<Vec<u8>, ModelError> {
    let failed = RefCell::new(None);
    let views = tensors.iter().map(|(name, tensor)| {
        let dtype = file_dtype(tensor.dtype())?;
        Ok((name, LazyView { tensor, dtype, failed: &failed }))
    });
    let views = views.collect::<Result<Vec<_>, ModelError>>()?;
    let bytes = safetensors::serialize(views, None);
    match failed.take() {
        Some(error) => Err(error),
        None => bytes.map_err(|e| corrupt("weights to be written", &e)),
    }
}

/// One tensor of a file to be written: its bytes are made when their turn comes, so that no second
/// set of all weights is held.
struct LazyView<'a> {
    tensor: &'a Tensor,
    dtype: FileDtype,
    failed: &'a RefCell<Option<ModelError>>,
}

impl View for LazyView<'_> {
    fn dtype(&self) -> FileDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        to_bytes(self.tensor)
            .unwrap_or_else(|error| {
                self.failed.replace(Some(error));
                Vec::new()
            })
            .into()
    }

    fn data_len(&self) -> usize {
        self.tensor.elem_count() * self.tensor.dtype().size_in_bytes()
    }
}

/// A name, a shape, and that many numbers.
pub type NamedNumbers<'a> = (String, &'a [usize], &'a [f32]);

/// Writes a safetensors file in f32, one tensor at a time.
///
/// # Errors
/// A file that cannot be written.
pub fn write_numbers<'a>(
    path: &Path,
    numbers: impl IntoIterator<Item = NamedNumbers<'a>>,
) -> Result<(), ModelError> {
    let views = numbers.into_iter().map(|(name, shape, values)| (name, Numbers { shape, values }));
    safetensors::serialize_to_file(views, None, path).map_err(|error| {
        let source = std::io::Error::other(error);
        ModelError::Write { path: path.to_owned(), cause: source }
    })
}

struct Numbers<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Numbers<'_> {
    fn dtype(&self) -> FileDtype {
        FileDtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// What is announced before the bytes travel.
///
/// # Errors
/// Corrupt bytes or an element type that does not travel.
pub fn manifest(version: PolicyVersion, bytes: &[u8]) -> Result<WeightManifest, ModelError> {
    let tensors = tensor_infos(bytes, "weights to be published")?;
    Ok(WeightManifest { version, tensors, bytes: bytes.len() as u64, hash: Hash::of(bytes) })
}

/// What a safetensors file holds, in the order of names.
///
/// # Errors
/// Corrupt bytes or an element type that does not travel.
pub fn tensor_infos(bytes: &[u8], file: &str) -> Result<Vec<TensorInfo>, ModelError> {
    let mut tensors = Vec::new();
    for (name, view) in parse(bytes, file)?.tensors() {
        let dtype = match view.dtype() {
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            other => return Err(wrong_dtype(file, &name, other)),
        };
        let shape = view.shape().iter().map(|n| *n as u64).collect();
        tensors.push(TensorInfo { name, shape, dtype });
    }
    tensors.sort_by(|a: &TensorInfo, b| a.name.cmp(&b.name));
    Ok(tensors)
}

pub(crate) fn parse<'a>(bytes: &'a [u8], file: &str) -> Result<SafeTensors<'a>, ModelError> {
    check_header(bytes).map_err(|e| corrupt(file, &e))?;
    SafeTensors::deserialize(bytes).map_err(|e| corrupt(file, &e))
}

pub(crate) fn read_tensor(
    parsed: &SafeTensors<'_>,
    (name, shape): (&str, &[usize]),
    file: &str,
    placement: &Placement,
) -> Result<Tensor, ModelError> {
    let Ok(view) = parsed.tensor(name) else {
        return Err(ModelError::MissingTensor { file: file.to_owned(), tensor: name.to_owned() });
    };
    if view.shape() != shape {
        return Err(ModelError::Shape {
            file: file.to_owned(),
            tensor: name.to_owned(),
            found: view.shape().to_vec(),
            expected: shape.to_vec(),
        });
    }
    to_tensor(name, &view, file, placement)
}

pub(crate) fn to_tensor(
    name: &str,
    view: &TensorView<'_>,
    file: &str,
    placement: &Placement,
) -> Result<Tensor, ModelError> {
    let bytes = view.data();
    let wide = || bytes.as_chunks().0.iter().position(|b| !f64::from_le_bytes(*b).is_finite());
    let (dtype, bad) = match view.dtype() {
        FileDtype::F64 => (DType::F64, wide()),
        FileDtype::F32 => (DType::F32, Dtype::F32.first_not_finite(bytes)),
        FileDtype::F16 => (DType::F16, Dtype::F16.first_not_finite(bytes)),
        FileDtype::BF16 => (DType::BF16, Dtype::Bf16.first_not_finite(bytes)),
        other => return Err(wrong_dtype(file, name, other)),
    };
    if let Some(index) = bad {
        let (file, tensor) = (file.to_owned(), name.to_owned());
        return Err(ModelError::NotFinite { file, tensor, index });
    }
    let tensor = Tensor::from_raw_buffer(bytes, dtype, view.shape(), &Device::Cpu)?;
    placement.place(tensor)
}

fn file_dtype(dtype: DType) -> Result<FileDtype, ModelError> {
    match dtype {
        DType::F64 => Ok(FileDtype::F64),
        DType::F32 => Ok(FileDtype::F32),
        DType::F16 => Ok(FileDtype::F16),
        DType::BF16 => Ok(FileDtype::BF16),
        other => Err(ModelError::Input(format!("weights of type {other:?} are not saved"))),
    }
}

fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>, ModelError> {
    fn little<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(bytes).collect()
    }
    let flat = tensor.flatten_all()?;
    Ok(match file_dtype(tensor.dtype())? {
        FileDtype::F64 => little(&flat.to_vec1::<f64>()?, |x| x.to_le_bytes()),
        FileDtype::F32 => little(&flat.to_vec1::<f32>()?, |x| x.to_le_bytes()),
        FileDtype::F16 => little(&flat.to_vec1::<half::f16>()?, |x| x.to_le_bytes()),
        _ => little(&flat.to_vec1::<half::bf16>()?, |x| x.to_le_bytes()),
    })
}

pub(crate) fn corrupt(file: &str, error: &impl fmt::Display) -> ModelError {
    ModelError::Corrupt { file: file.to_owned(), reason: error.to_string() }
}

fn wrong_dtype(file: &str, tensor: &str, found: FileDtype) -> ModelError {
    let (file, tensor) = (file.to_owned(), tensor.to_owned());
    ModelError::Dtype { file, tensor, found: format!("{found:?}").to_lowercase() }
}
