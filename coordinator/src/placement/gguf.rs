//! The sizes that a GGUF file's metadata name, for its cache; its weights are as large as the file.
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
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

/// # Errors
/// A file that is no GGUF, or names no sizes.
pub(super) fn shape(path: &Path) -> anyhow::Result<Shape> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let entries = Reader(BufReader::new(file)).entries();
    let (texts, numbers) =
        entries.with_context(|| format!("{} is no whole GGUF file", path.display()))?;
    let family = texts.get("general.architecture").map_or("", String::as_str);
    let number = |key: &str| numbers.get(&format!("{family}.{key}")).copied();
    let needed = |key: &str| {
        number(key).with_context(|| format!("{} has no {family}.{key}", path.display()))
    };
    let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    Ok(Shape {
        vocab: numbers.get("tokenizer.ggml.tokens").copied().unwrap_or_default(),
        hidden,
        layers: needed("block_count")?,
        heads,
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        head_dim: number("attention.key_length").unwrap_or(hidden / heads.max(1)),
        intermediate: needed("feed_forward_length")?,
        tied: true,
        bias: false,
        head_norms: false,
        norms: 2,
    })
}

struct Reader<R>(R);

type Entries = (BTreeMap<String, String>, BTreeMap<String, u64>);

impl<R: Read> Reader<R> {
    /// Texts, and whole numbers; of a list its length.
    fn entries(&mut self) -> anyhow::Result<Entries> {
        if &self.bytes::<4>()? != MAGIC {
            bail!("it does not begin with GGUF");
        }
        let _version = self.u32()?;
        let _tensors = self.u64()?;
        let count = self.u64()?;
        if count > ENTRIES_MAX {
            bail!("it claims {count} entries");
        }
        let (mut texts, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..count {
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
        Ok((texts, numbers))
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

    fn file() -> Vec<u8> {
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
        let head = [MAGIC.to_vec(), 3_u32.to_le_bytes().to_vec(), 0_u64.to_le_bytes().to_vec()];
        let count = (entries.len() as u64).to_le_bytes().to_vec();
        [head.concat(), count, entries.concat()].concat()
    }

    #[test]
    fn sizes_come_from_the_metadata() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file()).unwrap();
        let shape = shape(path.path()).unwrap();
        assert_eq!((shape.vocab, shape.layers, shape.kv_heads, shape.head_dim), (2, 18, 1, 256));
        assert_eq!(shape.cached(), 2 * 18 * 256);
    }

    #[test]
    fn torn_and_other_files_are_named() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for bytes in [file()[..60].to_vec(), b"PK\x03\x04 something else".to_vec()] {
            std::fs::write(path.path(), bytes).unwrap();
            let text = format!("{:#}", shape(path.path()).unwrap_err());
            assert!(text.contains("is no whole GGUF file"), "{text}");
        }
    }
}
