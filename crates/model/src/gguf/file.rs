//! A GGUF file opened: its key-values by type and its tensors in their quantised form. What the keys
//! mean for a model and which tensors it needs is not known here.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Shape};

use crate::ModelError;

/// What is named to whoever has a file in another quantisation.
const QUANTISATIONS: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and the \
                             mixtures of them (Q4_K_M and its like)";

pub(crate) struct GgufFile {
    path: PathBuf,
    content: Content,
}

/// Rows of one matrix in blocks of `dtype`, as they lie in the file.
pub(crate) struct RawTensor {
    pub(crate) dtype: GgmlDType,
    /// Outermost first, as candle writes shapes.
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl GgufFile {
    /// Reads key-values and the list of tensors; no weights.
    ///
    /// # Errors
    /// No such file; one that is no GGUF, is cut short or holds a quantisation that is not read.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let refused = |reason| refused(path, reason);
        let mut reader = BufReader::new(open(path)?);
        let mut magic = [0; 4];
        let whole = reader.read_exact(&mut magic).is_ok();
        if !whole || &magic != b"GGUF" {
            return Err(refused(
                "does not begin as a GGUF file does: name one, or a model \
                                directory"
                    .to_owned(),
            ));
        }
        reader.rewind().map_err(|source| read_failed(path, source))?;
        let content = Content::read(&mut reader).map_err(|e| refused(header_fault(&e)))?;
        let file = Self { path: path.to_owned(), content };
        file.check_length(reader.get_ref())?;
        Ok(file)
    }

    /// An error that names the file.
    pub(crate) fn refused(&self, reason: String) -> ModelError {
        refused(&self.path, reason)
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// # Errors
    /// A key that is there with another type.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.value(key, "a text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// # Errors
    /// A key that is there with another type.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.value(key, "a boolean", |value| value.to_bool().ok())
    }

    /// # Errors
    /// A key that is there with another type.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.value(key, "a number", |value| match value {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            _ => None,
        })
    }

    /// # Errors
    /// A key that is there with another type, or below zero.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.value(key, "a whole number from 0 on", count)
    }

    /// # Errors
    /// A key that is there with another type.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.list(key, "a list of texts", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// # Errors
    /// A key that is there with another type.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.list(key, "a list of numbers", |value| value.to_f32().ok())
    }

    /// # Errors
    /// A key that is there with another type.
    pub(crate) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        self.list(key, "a list of whole numbers from 0 on", count)
    }

    /// # Errors
    /// A key that is missing or of another type, by `get`.
    pub(crate) fn need<T>(&self, key: &str, found: Option<T>) -> Result<T, ModelError> {
        found.ok_or_else(|| {
            self.refused(format!("lacks {key}: convert the model again with llama.cpp"))
        })
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// Of a tensor, outermost first; none if it is missing.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(name).map(|info| info.shape.dims())
    }

    /// # Errors
    /// A tensor that is missing, of another shape, or a read that fails.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor, ModelError> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(self.refused(format!(
                "lacks tensor {name}, which its own key-values ask for: fetch the file again"
            )));
        };
        if info.shape.dims() != shape {
            return Err(self.refused(format!(
                "tensor {name} has shape {:?}, its key-values ask for {shape:?}",
                info.shape.dims()
            )));
        }
        let mut file = open(&self.path)?;
        let start = self.content.tensor_data_offset + info.offset;
        let mut bytes = vec![0; size(info)];
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| read_failed(&self.path, source))?;
        Ok(RawTensor { dtype: info.ggml_dtype, shape: shape.to_vec(), bytes })
    }

    fn value<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.refused(format!("{key} is not {kind}"))),
        }
    }

    fn list<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        self.value(key, kind, |value| match value {
            Value::Array(all) => all.iter().map(&read).collect(),
            _ => None,
        })
    }

    /// A download that broke off has its header and lacks weights at the end.
    fn check_length(&self, file: &File) -> Result<(), ModelError> {
        let length = file.metadata().map_err(|source| read_failed(&self.path, source))?.len();
        let end = |info: &TensorInfo| {
            self.content.tensor_data_offset.saturating_add(info.offset) + size(info) as u64
        };
        let infos = &self.content.tensor_infos;
        match infos.iter().max_by_key(|(_, info)| end(info)) {
            None => Err(self.refused("holds no tensors: name a file with weights".to_owned())),
            Some((name, info)) if end(info) > length => Err(self.refused(format!(
                "is cut short: tensor {name} ends at byte {}, the file at {length}; fetch it again",
                end(info)
            ))),
            Some(_) => Ok(()),
        }
    }
}

impl RawTensor {
    /// # Errors
    /// Bytes that do not fill the shape.
    pub(crate) fn build(&self, device: &Device) -> candle_core::Result<QTensor> {
        let bytes = self.bytes.as_slice().into();
        let storage = QStorage::from_data(bytes, device, self.dtype)?;
        QTensor::new(storage, Shape::from(self.shape.clone()))
    }

    /// Bytes of one entry of the outermost dimension.
    pub(crate) fn row_bytes(&self) -> usize {
        self.bytes.len() / self.shape.first().copied().unwrap_or(1).max(1)
    }
}

fn count(value: &Value) -> Option<usize> {
    let signed = |x: i64| usize::try_from(x).ok();
    match value {
        Value::U8(x) => Some(usize::from(*x)),
        Value::U16(x) => Some(usize::from(*x)),
        Value::U32(x) => usize::try_from(*x).ok(),
        Value::U64(x) => usize::try_from(*x).ok(),
        Value::I8(x) => signed(i64::from(*x)),
        Value::I16(x) => signed(i64::from(*x)),
        Value::I32(x) => signed(i64::from(*x)),
        Value::I64(x) => signed(*x),
        _ => None,
    }
}

fn size(info: &TensorInfo) -> usize {
    info.shape.elem_count() / info.ggml_dtype.block_size() * info.ggml_dtype.type_size()
}

/// candle stops at the first type that it does not know and says only its number.
fn header_fault(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    match first.split_once("unknown dtype for tensor ") {
        Some((_, number)) => format!(
            "holds tensors quantised as ggml type {number}, which is not read: quantise the model \
             as one of {QUANTISATIONS}"
        ),
        None => format!("has a damaged header ({first}): fetch it again"),
    }
}

fn open(path: &Path) -> Result<File, ModelError> {
    File::open(path).map_err(|source| read_failed(path, source))
}

fn read_failed(path: &Path, source: std::io::Error) -> ModelError {
    match source.kind() {
        std::io::ErrorKind::NotFound => {
            let hint = "name a .gguf file that is there, or a model directory";
            ModelError::MissingFile { path: path.to_owned(), hint }
        }
        _ => ModelError::Read { path: path.to_owned(), cause: source },
    }
}

fn refused(path: &Path, reason: String) -> ModelError {
    ModelError::Gguf { file: path.display().to_string(), reason }
}
