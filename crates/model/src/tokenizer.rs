//! A Hugging Face `tokenizer.json`: text to ids and back, the surface text of every id, and whether
//! two tokenizers are the same. Boundaries and templates are not known here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use types::Hash;

use crate::ModelError;
use crate::directory::read_text;
use crate::text_table::TextTable;

/// Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    parts: Arc<Parts>,
    /// Those of a model, which come first.
    ids: usize,
}

struct Parts {
    inner: tokenizers::Tokenizer,
    /// What it was read from, if that was a `tokenizer.json`.
    json: Option<String>,
    /// By id; an id without a token is empty.
    tokens: TextTable,
    pieces: TextTable,
}

/// How tokens stand for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    /// Each character is a byte, in GPT-2's alphabet.
    ByteLevel,
    /// `▁` is a space and `<0x0A>` a byte.
    SentencePiece,
    /// Whole words, joined by spaces.
    Words,
    /// Whatever its decoder makes of it.
    Other,
}

impl Tokenizer {
    /// `origin` names the text in errors.
    ///
    /// # Errors
    /// Text that is no `tokenizer.json`.
    pub fn from_json(json: &str, origin: &str) -> Result<Self, ModelError> {
        let refused = |reason: String| ModelError::Tokenizer { origin: origin.to_owned(), reason };
        let value: Value =
            serde_json::from_str(json).map_err(|e| refused(format!("not valid JSON: {e}")))?;
        let mut inner: tokenizers::Tokenizer =
            json.parse().map_err(|e| refused(format!("not a tokenizer that can be read: {e}")))?;
        // Fine-tuning saves these with the tokenizer; a text of ours is never cut or padded.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| refused(format!("its truncation stays: {e}")))?;
        let surface = Surface::of(&value["decoder"]);
        Self::assemble(inner, (Some(json.to_owned()), surface), origin)
    }

    /// One that was put together from a file without a `tokenizer.json`.
    pub(crate) fn built(inner: tokenizers::Tokenizer, origin: &str) -> Result<Self, ModelError> {
        let decoder = serde_json::to_value(inner.get_decoder()).map_err(|e| unwritten(&e))?;
        Self::assemble(inner, (None, Surface::of(&decoder)), origin)
    }

    fn assemble(
        inner: tokenizers::Tokenizer,
        (json, surface): (Option<String>, Surface),
        origin: &str,
    ) -> Result<Self, ModelError> {
        let vocab = inner.get_vocab(true);
        let size = vocab.values().max().map_or(0, |id| *id as usize + 1);
        if size == 0 {
            let reason = "it has no tokens".to_owned();
            return Err(ModelError::Tokenizer { origin: origin.to_owned(), reason });
        }
        let mut tokens = vec![String::new(); size];
        for (token, id) in vocab {
            tokens[id as usize] = token;
        }
        let pieces = pieces(&inner, &tokens, surface);
        let tokens = tokens.into_iter().collect();
        Ok(Self { parts: Arc::new(Parts { inner, json, tokens, pieces }), ids: size })
    }

    /// The same for a model that has only the first `ids`: published tokenizers name added tokens
    /// that only the model's larger sisters have.
    #[must_use]
    pub(crate) fn limited_to(&self, ids: usize) -> Self {
        Self { parts: self.parts.clone(), ids: self.ids.min(ids) }
    }

    /// # Errors
    /// No such file, or one that is no `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        Self::from_json(&read_text(path)?, &path.display().to_string())
    }

    /// As `tokenizer.json`: the text that it was read from, or one written now.
    ///
    /// # Errors
    /// One from another kind of file that cannot be written so.
    pub fn json(&self) -> Result<Cow<'_, str>, ModelError> {
        match &self.parts.json {
            Some(read) => Ok(Cow::Borrowed(read)),
            None => self.parts.inner.to_string(false).map(Cow::Owned).map_err(|e| unwritten(&e)),
        }
    }

    /// No special tokens are added.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.parts.inner.encode_fast(text, false);
        let encoding = encoding
            .map_err(|e| ModelError::Input(format!("{text:?} cannot be written in tokens: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What this tokenizer puts before every text of its own accord, such as a beginning-of-text
    /// token; mostly nothing.
    #[must_use]
    pub fn prefix(&self) -> Vec<u32> {
        if self.parts.inner.get_post_processor().is_none() {
            return Vec::new();
        }
        let ids =
            |special| self.parts.inner.encode_fast("0", special).map(|e| e.get_ids().to_vec());
        let (Ok(bare), Ok(whole)) = (ids(false), ids(true)) else { return Vec::new() };
        let at = whole.windows(bare.len().max(1)).position(|window| window == bare);
        whole[..at.unwrap_or(0)].to_vec()
    }

    /// Special tokens are shown as the vocabulary writes them: nothing written is hidden.
    ///
    /// # Errors
    /// A decoder that fails on these ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let text = self.parts.inner.decode(ids, false);
        text.map_err(|e| ModelError::Input(format!("{} tokens cannot be read: {e}", ids.len())))
    }

    /// Surface text by id, with real spaces and line ends; empty for special tokens. Where tokens
    /// are words joined by spaces, each piece begins with its space. A piece of a longer UTF-8
    /// character shows the replacement character.
    #[must_use]
    pub fn pieces(&self) -> &TextTable {
        &self.parts.pieces
    }

    /// The id of a token as the vocabulary writes it.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.parts.inner.token_to_id(token)
    }

    /// One more than the highest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.ids
    }

    /// One more than the highest id of a text without added tokens.
    #[must_use]
    pub fn plain_size(&self) -> usize {
        self.parts.inner.get_vocab(false).values().max().map_or(0, |id| *id as usize + 1)
    }

    /// Equal exactly when ids mean the same text. How a text is cut into ids is of no account: files
    /// state it in different ways, and of models that share a vocabulary it is the same.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        let mut bytes = Vec::from((self.ids as u64).to_le_bytes());
        for text in self.meanings() {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Hash::of(&bytes)
    }

    /// Where `other` first differs, in words; none if the fingerprints agree.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let mut pairs = self.meanings().zip(other.meanings()).enumerate();
        let differing = pairs.find(|(_, (a, b))| a != b);
        let differing = differing.map(|(id, (a, b))| format!("token {id} is {a:?} against {b:?}"));
        let (ours, theirs) = (self.ids, other.ids);
        if ours == theirs {
            return differing;
        }
        let more = || {
            let (longer, shared) = if ours < theirs { (other, ours) } else { (self, theirs) };
            let first = longer.meanings().nth(shared).unwrap_or_default();
            format!("the longer with {first:?} as {shared}")
        };
        let place = differing.unwrap_or_else(more);
        Some(format!("{ours} tokens against {theirs}: {place}"))
    }

    /// By id. A special token is what the vocabulary calls it, and so is a piece of a character: files
    /// differ in which tokens they take for special, and in how they write spaces.
    fn meanings(&self) -> impl Iterator<Item = &str> {
        let both = self.parts.pieces.iter().zip(self.parts.tokens.iter()).take(self.ids);
        both.map(|(piece, token)| match piece.is_empty() || piece.contains('\u{fffd}') {
            true => token,
            false => piece,
        })
    }
}

impl Surface {
    fn of(decoder: &Value) -> Self {
        let text = decoder.to_string();
        match decoder {
            Value::Null => Self::Words,
            _ if text.contains("\"ByteLevel\"") => Self::ByteLevel,
            _ if text.contains("\"Metaspace\"") || text.contains('▁') => Self::SentencePiece,
            _ => Self::Other,
        }
    }
}

fn pieces(inner: &tokenizers::Tokenizer, tokens: &[String], surface: Surface) -> TextTable {
    let added = inner.get_added_tokens_decoder();
    let bytes = byte_alphabet();
    let piece = |(id, token): (usize, &String)| match added.get(&(id as u32)) {
        Some(added) if added.special => String::new(),
        Some(added) if surface == Surface::SentencePiece => sentence_piece(&added.content),
        Some(added) if surface != Surface::Words => added.content.clone(),
        _ if token.is_empty() => String::new(),
        _ => match surface {
            Surface::ByteLevel => byte_level(token, &bytes),
            Surface::SentencePiece => sentence_piece(token),
            Surface::Words => format!(" {token}"),
            Surface::Other => inner.decode(&[id as u32], true).unwrap_or_default(),
        },
    };
    tokens.iter().enumerate().map(piece).collect()
}

fn unwritten(error: &dyn std::fmt::Display) -> ModelError {
    ModelError::Input(format!("the tokenizer cannot be written as tokenizer.json: {error}"))
}

/// GPT-2's printable stand-in for every byte.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let stand_in = |byte: u8| {
        let code = if printable(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        (char::from_u32(code).expect("below the surrogates"), byte)
    };
    (0..=u8::MAX).map(stand_in).collect()
}

fn byte_level(token: &str, alphabet: &HashMap<char, u8>) -> String {
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        match alphabet.get(&c) {
            Some(byte) => bytes.push(*byte),
            None => bytes.extend(c.to_string().as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn sentence_piece(token: &str) -> String {
    let byte = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => String::from_utf8_lossy(&[byte]).into_owned(),
        None => token.replace('▁', " "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(vocab: Value) -> Tokenizer {
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 0, "content": "<eos>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        });
        Tokenizer::from_json(&json.to_string(), "t.json").unwrap()
    }

    fn bytes(merges: Value) -> Tokenizer {
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": true}, "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                        "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "Ċ": 3, "Ġa": 4, "Ã": 5},
                      "merges": merges},
        });
        Tokenizer::from_json(&json.to_string(), "t.json").unwrap()
    }

    #[test]
    fn words_are_encoded_and_decoded_with_nothing_added_or_hidden() {
        let t = words(json!({"<eos>": 0, "so": 1, "7": 2, ";": 3}));
        assert_eq!(t.encode("so 7 ; so").unwrap(), [1, 2, 3, 1]);
        assert_eq!(t.decode(&[1, 0, 2, 3]).unwrap(), "so <eos> 7 ;");
        assert!(t.pieces().iter().eq(["", " so", " 7", " ;"]));
        assert_eq!((t.vocab_size(), t.id_of("7"), t.id_of("8")), (4, Some(2), None));
        let error = t.encode("so 8").unwrap_err().to_string();
        assert!(error.contains("\"so 8\""), "{error}");
    }

    #[test]
    fn saved_truncation_and_padding_change_no_text() {
        let plain = words(json!({"<eos>": 0, "so": 1, "7": 2, ";": 3}));
        let mut value: Value = serde_json::from_str(&plain.json().unwrap()).unwrap();
        value["truncation"] = json!({"direction": "Right", "max_length": 2, "stride": 0,
                                     "strategy": "LongestFirst"});
        value["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_id": 0,
                                  "pad_type_id": 0, "pad_token": "<eos>",
                                  "pad_to_multiple_of": null});
        let saved = Tokenizer::from_json(&value.to_string(), "t.json").unwrap();
        assert_eq!(saved.encode("so 7 ; so").unwrap(), [1, 2, 3, 1]);
    }

    #[test]
    fn byte_level_pieces_show_their_text() {
        let t = bytes(json!([["Ġ", "a"]]));
        assert_eq!(t.encode("a a").unwrap(), [0, 4]);
        assert!(t.pieces().iter().eq(["a", "b", " ", "\n", " a", "\u{fffd}"]));
        assert_eq!(sentence_piece("▁so"), " so");
        assert_eq!(sentence_piece("<0x0A>"), "\n");
    }

    #[test]
    fn differences_are_named() {
        let t = words(json!({"<eos>": 0, "so": 1, "7": 2}));
        let same = words(json!({"7": 2, "so": 1, "<eos>": 0}));
        let other = words(json!({"<eos>": 0, "zix": 1, "7": 2}));
        assert_eq!((t.difference(&same), t.fingerprint()), (None, same.fingerprint()));
        assert_eq!(t.difference(&other).unwrap(), "token 1 is \" so\" against \" zix\"");
        assert_ne!(t.fingerprint(), other.fingerprint());
        let longer = words(json!({"<eos>": 0, "so": 1, "7": 2, "8": 3}));
        let more = "3 tokens against 4: the longer with \" 8\" as 3";
        assert_eq!(t.difference(&longer).unwrap(), more);
        let shorter = longer.limited_to(3);
        assert_eq!((shorter.vocab_size(), shorter.difference(&t)), (3, None));
        assert_eq!(shorter.fingerprint(), t.fingerprint());
    }

    #[test]
    fn notations_of_one_vocabulary_mean_the_same() {
        let with = |spaces: &str, special: bool, piece: &str, merges: Value| {
            let added = |id: u32, content: &str, special: bool| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": special})
            };
            let json = json!({
                "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
                "added_tokens": [added(1, spaces, false), added(2, "<|fim|>", special)],
                "pre_tokenizer": null, "post_processor": null,
                "decoder": {"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"}, {"type": "Fuse"}]},
                "model": {"type": "BPE", "byte_fallback": true, "merges": merges,
                          "vocab": {"▁": 0, spaces: 1, "<|fim|>": 2, piece: 3, "a": 4, "▁a": 5}},
            });
            Tokenizer::from_json(&json.to_string(), "t.json").unwrap()
        };
        let hub = with("▁▁", false, "<0xC3>", json!([["▁", "a"]]));
        let file = with("  ", true, "<0xC3>", json!([]));
        assert!(hub.pieces().iter().eq([" ", "  ", "<|fim|>", "\u{fffd}", "a", " a"]));
        assert!(file.pieces().iter().eq([" ", "  ", "", "\u{fffd}", "a", " a"]));
        assert_eq!((hub.difference(&file), hub.fingerprint()), (None, file.fingerprint()));
        let other = with("  ", true, "<0xC2>", json!([]));
        assert_eq!(hub.difference(&other).unwrap(), "token 3 is \"<0xC3>\" against \"<0xC2>\"");
        assert_ne!(other.fingerprint(), file.fingerprint());
    }

    #[test]
    fn text_that_is_no_tokenizer_is_refused() {
        for text in ["{", "{\"model\": 3}"] {
            let error = Tokenizer::from_json(text, "t.json").err().unwrap().to_string();
            assert!(error.starts_with("t.json: not "), "{error}");
        }
    }
}
