//! The sizes that a GGUF file's metadata name, and what its tensors' names tell of the decoder. As a weak
//! model its weights are as large as the file.
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail};

use super::shape::Shape;

const MAGIC: &[u8; 4] = b"GGUF";
/// Longer texts and more entries are taken for damage.
const TEXT_BYTES_MAX: u64 = 16 << 20;
const ENTRIES_MAX: u64 = 1 << 16;
const ITEMS_MAX: u64 = 1 << 24;
const DIMENSIONS_MAX: u32 = 4;

/// # Errors
/// A file that is no GGUF, or names no sizes.
pub(super) fn shape(path: &Path) -> anyhow::Result<Shape> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let header = Reader(BufReader::new(file)).header();
    let Header { texts, numbers, tensors } =
        header.with_context(|| format!("{} is no whole GGUF file", path.display()))?;
    let family = texts.get("general.architecture").map_or("", String::as_str);
    let number = |key: &str| numbers.get(&format!("{family}.{key}")).copied();
    let needed = |key: &str| {
        number(key).with_context(|| format!("{} has no {family}.{key}", path.display()))
    };
    let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    let has = |tensor: &str| tensors.contains(tensor);
    let norms = ["attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"];
    let norms = norms.iter().filter(|norm| has(&format!("blk.0.{norm}.weight"))).count();
    Ok(Shape {
        vocab: numbers.get("tokenizer.ggml.tokens").copied().unwrap_or_default(),
        hidden,
        layers: needed("block_count")?,
        heads,
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        head_dim: number("attention.key_length").unwrap_or(hidden / heads.max(1)),
        intermediate: needed("feed_forward_length")?,
        tied: !has("output.weight"),
        bias: has("blk.0.attn_q.bias"),
        head_norms: has("blk.0.attn_q_norm.weight"),
        norms: norms as u64,
    })
}

struct Reader<R>(R);

struct Header {
    texts: BTreeMap<String, String>,
    /// Whole numbers; of a list its length.
    numbers: BTreeMap<String, u64>,
    /// Their names.
    tensors: BTreeSet<String>,
}

impl<R: Read> Reader<R> {
    fn header(&mut self) -> anyhow::Result<Header> {
        if &self.bytes::<4>()? != MAGIC {
            bail!("it does not begin with GGUF");
        }
        let _version = self.u32()?;
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if tensors.max(entries) > ENTRIES_MAX {
            bail!("it claims {tensors} tensors and {entries} entries");
        }
        let (mut texts, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..entries {
            let key = self.text()?;
            match self.u32()? {
                8 => drop(texts.insert(key, self.text()?)),
                9 => drop(numbers.insert(key, self.list()?)),
                kind => {
                    if let Some(number) = self.scalar(kind)? {
                        numbers.insert(key, number);
                    }
                }
            }
        }
        let tensors = (0..tensors).map(|_| self.tensor()).collect::<anyhow::Result<_>>()?;
        Ok(Header { texts, numbers, tensors })
    }

    /// Reads over what is told of a tensor and returns its name.
    fn tensor(&mut self) -> anyhow::Result<String> {
        let (name, dimensions) = (self.text()?, self.u32()?);
        if dimensions > DIMENSIONS_MAX {
            bail!("its tensor {name} claims {dimensions} dimensions");
        }
        for _ in 0..dimensions {
            self.u64()?;
        }
        let _type_and_offset = (self.u32()?, self.u64()?);
        Ok(name)
    }

    /// A whole number; `None` for one with a fraction.
    fn scalar(&mut self, kind: u32) -> anyhow::Result<Option<u64>> {
        Ok(match kind {
            0 | 1 | 7 => Some(u64::from(self.bytes::<1>()?[0])),
            2 | 3 => Some(u64::from(u16::from_le_bytes(self.bytes()?))),
            4 | 5 => Some(u64::from(self.u32()?)),
            10 | 11 => Some(self.u64()?),
            6 => self.bytes::<4>().map(|_| None)?,
            12 => self.bytes::<8>().map(|_| None)?,
            other => bail!("it has an entry of type {other}"),
        })
    }

    /// Reads over a list and returns its length.
    fn list(&mut self) -> anyhow::Result<u64> {
        let (kind, length) = (self.u32()?, self.u64()?);
        if length > ITEMS_MAX {
            bail!("it claims a list of {length}");
        }
        for _ in 0..length {
            match kind {
                8 => drop(self.text()?),
                kind => drop(self.scalar(kind)?),
            }
        }
        Ok(length)
    }

    fn text(&mut self) -> anyhow::Result<String> {
        let length = self.u64()?;
        if length > TEXT_BYTES_MAX {
            bail!("it claims a text of {length} bytes");
        }
        let mut bytes = vec![0; length as usize];
        self.0.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn u32(&mut self) -> anyhow::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> anyhow::Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn number(key: &str, value: u32) -> Vec<u8> {
        [text(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    }

    fn tensor(name: &str) -> Vec<u8> {
        let (kind, offset) = (0_u32.to_le_bytes(), 0_u64.to_le_bytes());
        let shape = [2_u32.to_le_bytes().to_vec(), [640_u64.to_le_bytes(); 2].concat()].concat();
        [text(name), shape, kind.to_vec(), offset.to_vec()].concat()
    }

    fn file(tensors: &[&str]) -> Vec<u8> {
        let tokens = [9_u32.to_le_bytes().to_vec(), 8_u32.to_le_bytes().to_vec()].concat();
        let tokens = [tokens, 2_u64.to_le_bytes().to_vec(), text("a"), text("b")].concat();
        let entries = [
            [text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text("gemma3")].concat(),
            [text("tokenizer.ggml.tokens"), tokens].concat(),
            [text("gemma3.eps"), 6_u32.to_le_bytes().to_vec(), 1e-6_f32.to_le_bytes().to_vec()]
                .concat(),
            number("gemma3.block_count", 18),
            number("gemma3.embedding_length", 640),
            number("gemma3.feed_forward_length", 2048),
            number("gemma3.attention.head_count", 4),
            number("gemma3.attention.head_count_kv", 1),
            number("gemma3.attention.key_length", 256),
        ];
        let counts = [tensors.len(), entries.len()].map(|count| (count as u64).to_le_bytes());
        let head = [MAGIC.to_vec(), 3_u32.to_le_bytes().to_vec(), counts.concat()].concat();
        let tensors: Vec<u8> = tensors.iter().flat_map(|name| tensor(name)).collect();
        [head, entries.concat(), tensors].concat()
    }

    fn shape_of(tensors: &[&str]) -> Shape {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file(tensors)).unwrap();
        shape(path.path()).unwrap()
    }

    #[test]
    fn sizes_come_from_the_metadata() {
        let shape = shape_of(&[]);
        assert_eq!((shape.vocab, shape.layers, shape.kv_heads, shape.head_dim), (2, 18, 1, 256));
        assert_eq!(shape.cached(), 2 * 18 * 256);
    }

    /// Gemma-3-270M's, and one with all that it lacks.
    #[test]
    fn what_is_trained_besides_comes_from_the_tensors() {
        let norms =
            ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm"];
        let mut tensors: Vec<String> = norms.map(|name| format!("blk.0.{name}.weight")).into();
        let shape =
            |tensors: &[String]| shape_of(&tensors.iter().map(String::as_str).collect::<Vec<_>>());
        let gemma = shape(&tensors);
        let all = (gemma.tied, gemma.bias, gemma.head_norms, gemma.norms);
        assert_eq!(all, (true, false, true, 4));
        let published = 268_098_176 - 262_144 * 640;
        assert_eq!(gemma.parameters(), published + 2 * 640);
        tensors.extend(["output.weight".to_owned(), "blk.0.attn_q.bias".to_owned()]);
        let other = shape(&tensors[2..]);
        let all = (other.tied, other.bias, other.head_norms, other.norms);
        assert_eq!(all, (false, true, true, 2));
    }

    #[test]
    fn torn_and_other_files_are_named() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut cut = file(&["output.weight"]);
        cut.pop();
        for bytes in [file(&[])[..60].to_vec(), b"PK\x03\x04 something else".to_vec(), cut] {
            std::fs::write(path.path(), bytes).unwrap();
            let text = format!("{:#}", shape(path.path()).unwrap_err());
            assert!(text.contains("is no whole GGUF file"), "{text}");
        }
    }
}
