//! A safetensors file written again in another type, in one file or in shards, piece by piece: no
//! tensor is ever held whole. What else belongs to a model's directory is `export`'s.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;
use types::{check_header, header_bytes};

use super::convert::{convert, width};
use crate::cli::ExportDtype;

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes read at once; whole numbers of every type.
const PIECE_BYTES: u64 = 4 << 20;

/// A file of weights, open; tensors in the order of their bytes.
pub(super) struct Weights {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the tensors' bytes begin.
    start: u64,
    tensors: Vec<(String, TensorInfo)>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub files: Vec<String>,
    pub tensors: usize,
    /// Of all tensors.
    pub bytes: u64,
}

impl Weights {
    /// Reads the header and checks that the file is as long as it says.
    ///
    /// # Errors
    /// A file that is missing, torn or no safetensors.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let unreadable = || format!("cannot read the weights {}", path.display());
        let mut file = BufReader::new(File::open(path).with_context(unreadable)?);
        let length = file.get_ref().metadata().with_context(unreadable)?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).with_context(unreadable)?;
        let invalid = || {
            format!("{} is not a valid safetensors file: use another checkpoint", path.display())
        };
        let header = header_bytes(&size, length).with_context(invalid)?;
        let mut text = size.to_vec();
        file.by_ref().take(header).read_to_end(&mut text).with_context(unreadable)?;
        check_header(&text).with_context(invalid)?;
        let metadata: Metadata =
            serde_json::from_slice(&text[size.len()..]).with_context(invalid)?;
        let start = header + 8;
        let expected = start + metadata.data_len() as u64;
        if length != expected {
            bail!(
                "{} is torn, it has {length} bytes where its header says {expected}: use another \
                 checkpoint",
                path.display()
            );
        }
        let info = |name: String| {
            let info = metadata.info(&name).cloned().expect("its own key names a tensor");
            (name, info)
        };
        let tensors: Vec<_> = metadata.offset_keys().into_iter().map(info).collect();
        if !is_gapless(&tensors) {
            bail!("{}: its tensors' shapes and places disagree", invalid());
        }
        Ok(Self { path: path.to_owned(), file, start, tensors })
    }

    /// Writes all tensors into `dir` as type `to`: one file, or shards of at most `shard_bytes`
    /// with an index, a larger tensor in a shard of its own.
    ///
    /// # Errors
    /// A tensor that the type cannot hold, by name; files that cannot be read or written.
    pub(super) fn write(
        &mut self,
        dir: &Path,
        to: ExportDtype,
        shard_bytes: u64,
    ) -> anyhow::Result<Written> {
        let converted = self.tensors.iter().map(|(name, info)| {
            let path = &self.path;
            let width = width(info.dtype).with_context(|| {
                format!("tensor {name} of {} is neither f32, f16 nor bf16", path.display())
            })?;
            let numbers = (info.data_offsets.1 - info.data_offsets.0) / width;
            Ok((numbers * to.safetensors().bitsize() / 8) as u64)
        });
        let sizes: Vec<u64> = converted.collect::<anyhow::Result<_>>()?;
        let shards = divide(&sizes, shard_bytes);
        let name = |shard: usize| match shards.len() {
            1 => WHOLE.to_owned(),
            all => format!("model-{:05}-of-{all:05}.safetensors", shard + 1),
        };
        let mut map = BTreeMap::new();
        for (shard, range) in shards.iter().enumerate() {
            self.write_file(&dir.join(name(shard)), range.clone(), to)?;
            let names = self.tensors[range.clone()].iter();
            map.extend(names.map(|(tensor, _)| (tensor.clone(), name(shard))));
        }
        let bytes = sizes.iter().sum();
        if shards.len() > 1 {
            let index = json!({ "metadata": { "total_size": bytes }, "weight_map": map });
            let path = dir.join(INDEX);
            std::fs::write(&path, format!("{index:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let files = (0..shards.len()).map(name).collect();
        Ok(Written { files, tensors: self.tensors.len(), bytes })
    }

    fn write_file(
        &mut self,
        path: &Path,
        range: std::ops::Range<usize>,
        to: ExportDtype,
    ) -> anyhow::Result<()> {
        let unwritable = || format!("cannot write {}", path.display());
        let mut out = BufWriter::new(File::create(path).with_context(unwritable)?);
        out.write_all(&header(&self.tensors[range.clone()], to)?).with_context(unwritable)?;
        for at in range {
            let (name, info) = self.tensors[at].clone();
            let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            let unreadable = || format!("cannot read {}", self.path.display());
            self.file.seek(SeekFrom::Start(self.start + begin)).with_context(unreadable)?;
            let mut left = end - begin;
            while left > 0 {
                let mut piece = vec![0; left.min(PIECE_BYTES) as usize];
                self.file.read_exact(&mut piece).with_context(unreadable)?;
                left -= piece.len() as u64;
                let numbers = convert(&piece, info.dtype, to)
                    .with_context(|| format!("tensor {name} of {}", self.path.display()))?;
                out.write_all(&numbers).with_context(unwritable)?;
            }
        }
        out.flush().with_context(unwritable)?;
        out.get_ref().sync_all().with_context(unwritable)
    }
}

/// Every tensor has the bytes of its shape and begins where the one before it ends.
fn is_gapless(tensors: &[(String, TensorInfo)]) -> bool {
    let mut end = 0;
    tensors.iter().all(|(_, info)| {
        let bytes = info.shape.iter().product::<usize>() * info.dtype.bitsize() / 8;
        let follows = info.data_offsets == (end, end + bytes);
        end += bytes;
        follows
    })
}

/// The length and the text that precede the tensors, padded to 8 bytes. `format` is what
/// `transformers` insists on.
fn header(tensors: &[(String, TensorInfo)], to: ExportDtype) -> anyhow::Result<Vec<u8>> {
    let dtype = to.safetensors();
    let mut end = 0;
    let placed = tensors.iter().map(|(name, info)| {
        let begin = end;
        end += info.shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype, shape: info.shape.clone(), data_offsets: (begin, end) };
        (name.clone(), info)
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), placed.collect()).context("the new header")?;
    let mut text = serde_json::to_vec(&metadata).context("the new header")?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

/// Consecutive tensors by sizes, as many together as fit; at least one file.
fn divide(sizes: &[u64], most: u64) -> Vec<std::ops::Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (at, size) in sizes.iter().enumerate() {
        if at > start && held + size > most {
            shards.push(start..at);
            (start, held) = (at, 0);
        }
        held += size;
    }
    shards.push(start..sizes.len());
    shards
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{TensorView, serialize};
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    /// `a` [2,2], `b` [3] and `c` [1], f32.
    fn file(dir: &Path, a: [f32; 4]) -> PathBuf {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let all: [(&str, Vec<usize>, Vec<u8>); 3] = [
            ("a", vec![2, 2], bytes(&a)),
            ("b", vec![3], bytes(&[0.5, -0.5, 3.0])),
            ("c", vec![1], bytes(&[7.0])),
        ];
        let views = all.iter().map(|(name, shape, bytes)| {
            (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let path = dir.join("source.safetensors");
        std::fs::write(&path, serialize(views, None).unwrap()).unwrap();
        path
    }

    fn read(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        parsed.tensors().into_iter().map(tensor).collect()
    }

    #[test]
    fn a_small_model_is_one_file_with_rounded_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let source = file(dir.path(), [1.0, 1.001, -2.0, 0.0]);
        let mut weights = Weights::open(&source).unwrap();
        let written = weights.write(dir.path(), ExportDtype::Bf16, 1_000).unwrap();
        assert_eq!((written.files, written.bytes), (vec![WHOLE.to_owned()], 16));
        let found = read(&dir.path().join(WHOLE));
        let a = [0x80, 0x3f, 0x80, 0x3f, 0x00, 0xc0, 0, 0].to_vec();
        assert_eq!(found["a"], (Dtype::BF16, vec![2, 2], a));
        assert_eq!(found["c"], (Dtype::BF16, vec![1], vec![0xe0, 0x40]));
        assert!(!dir.path().join(INDEX).exists());
    }

    #[test]
    fn a_large_model_is_shards_with_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let source = file(dir.path(), [1.0, 2.0, 3.0, 4.0]);
        let written =
            Weights::open(&source).unwrap().write(dir.path(), ExportDtype::F32, 20).unwrap();
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(written.files, names);
        let index = std::fs::read_to_string(dir.path().join(INDEX)).unwrap();
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let map = json!({ "a": names[0], "b": names[1], "c": names[1] });
        assert_eq!(index, json!({ "metadata": { "total_size": 32 }, "weight_map": map }));
        let (first, second) = (read(&dir.path().join(names[0])), read(&dir.path().join(names[1])));
        assert_eq!(first["a"].2[12..], 4.0_f32.to_le_bytes());
        assert_eq!(
            (second["b"].2[8..].to_vec(), second["c"].2.len()),
            (3.0_f32.to_le_bytes().to_vec(), 4)
        );
    }

    #[test]
    fn shards_hold_what_fits_and_at_least_one() {
        assert_eq!(divide(&[4, 4, 4, 9, 1], 8), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(divide(&[4, 4], 8).len(), 1);
    }

    #[test]
    fn torn_files_and_bad_numbers_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let source = file(dir.path(), [1.0, 70_000.0, 0.0, 0.0]);
        let mut weights = Weights::open(&source).unwrap();
        let error = weights.write(dir.path(), ExportDtype::F16, 1_000).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("tensor a of") && text.contains("--dtype bf16"), "{text}");
        let bytes = std::fs::read(&source).unwrap();
        std::fs::write(&source, &bytes[..bytes.len() - 1]).unwrap();
        let text = format!("{:#}", Weights::open(&source).err().unwrap());
        assert!(text.contains("is torn") && text.contains("another checkpoint"), "{text}");
        std::fs::write(&source, [0xff; 20]).unwrap();
        let text = format!("{:#}", Weights::open(&source).err().unwrap());
        assert!(text.contains("not a valid safetensors"), "{text}");
    }
}
