//! A safetensors file that is read one tensor at a time, so that never both it and its tensors are held
//! whole. Which tensors a model has is not known here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::Tensor;
use safetensors::tensor::{Metadata, TensorView};
use types::{check_header, header_bytes};

use crate::directory::unreadable;
use crate::weights::{corrupt, to_tensor};
use crate::{ModelError, Placement, Tensors};

/// The bytes that say how long the header is.
const LENGTH_BYTES: usize = 8;

/// An open file: what becomes of its name is of no account.
#[derive(Debug)]
pub struct TensorFile {
    file: File,
    /// Names it in errors.
    origin: String,
    /// Where the tensors' bytes begin.
    start: u64,
    metadata: Metadata,
}

impl TensorFile {
    /// Reads the header and checks that the file is as long as it says.
    ///
    /// # Errors
    /// A file that is missing, torn or no safetensors, or whose header is too large.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let origin = path.display().to_string();
        let file = File::open(path).map_err(|e| unreadable(path, e))?;
        let (length, header) = read_header(&file).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => corrupt(&origin, &e),
            _ => unreadable(path, e),
        })?;
        let metadata: Metadata = serde_json::from_slice(&header[LENGTH_BYTES..])
            .map_err(|e| corrupt(&origin, &format!("its header cannot be read: {e}")))?;
        let start = header.len() as u64;
        let expected = start.saturating_add(metadata.data_len() as u64);
        if length != expected {
            let reason = format!("it has {length} bytes where its header says {expected}");
            return Err(corrupt(&origin, &reason));
        }
        Ok(Self { file, origin, start, metadata })
    }

    /// In no order that means anything.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Type, as safetensors names it, and shape; `None` if there is no such tensor.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<(String, Vec<usize>)> {
        let info = self.metadata.info(name)?;
        Some((info.dtype.to_string(), info.shape.clone()))
    }

    /// # Errors
    /// No such tensor, one of an unknown type or that is not finite, a file that cannot be read any more.
    pub fn read(&self, name: &str, placement: &Placement) -> Result<Tensor, ModelError> {
        let Some(info) = self.metadata.info(name) else {
            let (file, tensor) = (self.origin.clone(), name.to_owned());
            return Err(ModelError::MissingTensor { file, tensor });
        };
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end.saturating_sub(begin)];
        self.file
            .read_exact_at(&mut bytes, self.start + begin as u64)
            .map_err(|e| unreadable(Path::new(&self.origin), e))?;
        let view = TensorView::new(info.dtype, info.shape.clone(), &bytes);
        let view = view.map_err(|e| corrupt(&self.origin, &e))?;
        to_tensor(name, &view, &self.origin, placement)
    }

    /// # Errors
    /// As [`Self::read`], of any tensor.
    pub fn read_all(&self, placement: &Placement) -> Result<Tensors, ModelError> {
        let read = |name: String| self.read(&name, placement).map(|tensor| (name, tensor));
        self.names().into_iter().map(read).collect()
    }

    /// As [`Self::read`], of this shape.
    ///
    /// # Errors
    /// Another shape, too.
    pub(crate) fn read_shaped(
        &self,
        name: &str,
        shape: &[usize],
        placement: &Placement,
    ) -> Result<Tensor, ModelError> {
        match self.metadata.info(name) {
            Some(info) if info.shape != shape => Err(ModelError::Shape {
                file: self.origin.clone(),
                tensor: name.to_owned(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            }),
            _ => self.read(name, placement),
        }
    }
}

/// The file's length and its header, with the bytes that say how long that is.
fn read_header(file: &File) -> io::Result<(u64, Vec<u8>)> {
    let refused = |fault| io::Error::new(io::ErrorKind::InvalidData, fault);
    let length = file.metadata()?.len();
    let mut header = Vec::new();
    file.take(LENGTH_BYTES as u64).read_to_end(&mut header)?;
    let bytes = header_bytes(&header, length).map_err(refused)?;
    file.take(bytes).read_to_end(&mut header)?;
    check_header(&header).map_err(refused)?;
    Ok((length, header))
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::to_safetensors;

    fn written(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> std::path::PathBuf {
        let tensor = |values: &[f32]| Tensor::new(values, &candle_core::Device::Cpu).unwrap();
        let mut half = tensor(&[0.5, -2.0]).to_dtype(DType::BF16).unwrap();
        half = half.reshape((1, 2)).unwrap();
        let tensors: Tensors =
            [("a".to_owned(), tensor(&[1.0, 2.0, 3.0])), ("b".to_owned(), half)].into();
        let mut bytes = to_safetensors(&tensors).unwrap();
        change(&mut bytes);
        let path = dir.join("w.safetensors");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn each_tensor_is_read_by_itself_also_after_the_name_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), |_| {});
        let file = TensorFile::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let mut names = file.names();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(file.kind("b"), Some(("BF16".to_owned(), vec![1, 2])));
        assert_eq!(file.kind("c"), None);
        let placement = Placement::cpu(DType::F32);
        let b = file.read("b", &placement).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(b, [[0.5, -2.0]]);
        let a = file.read_shaped("a", &[3], &placement).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(a, [1.0, 2.0, 3.0]);
        let text = file.read_shaped("a", &[1, 3], &placement).unwrap_err().to_string();
        assert!(text.contains("[3]") && text.contains("[1, 3]"), "{text}");
        let text = file.read("c", &placement).unwrap_err().to_string();
        assert!(text.contains("w.safetensors") && text.contains('c'), "{text}");
    }

    #[test]
    fn damage_is_told_before_anything_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let fault = |change: fn(&mut Vec<u8>)| {
            TensorFile::open(&written(dir.path(), change)).unwrap_err().to_string()
        };
        let torn = fault(|bytes| bytes.truncate(bytes.len() - 1));
        assert!(torn.contains("bytes where its header says"), "{torn}");
        let long = fault(|bytes| bytes.push(0));
        assert!(long.contains("bytes where its header says"), "{long}");
        let header = fault(|bytes| bytes[..8].fill(0xff));
        assert!(header.contains("its header has"), "{header}");
        let text = fault(|bytes| bytes[8] = b'x');
        assert!(text.contains("is not a valid safetensors file"), "{text}");
        let path = written(dir.path(), |bytes| {
            let last = bytes.len() - 2;
            bytes[last..].copy_from_slice(&[0x80, 0x7f]);
        });
        let file = TensorFile::open(&path).unwrap();
        let all = file.read_all(&Placement::cpu(DType::F32)).unwrap_err().to_string();
        assert!(all.contains("tensor b holds a NaN or infinity at element 1"), "{all}");
        let none = TensorFile::open(&dir.path().join("none")).unwrap_err().to_string();
        assert!(none.contains("none does not exist"), "{none}");
    }
}
