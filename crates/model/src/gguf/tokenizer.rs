//! The tokenizer of a GGUF file as one of the `tokenizers` library, so that the file, a Hugging Face
//! directory of the same model and llama.cpp write a text in the same ids. How texts are then used
//! is not decided here.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::file::GgufFile;
use super::merges;
use crate::{ModelError, Tokenizer};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";

/// `llama_token_type` of llama.cpp.
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;
const UNUSED: usize = 5;
const BYTE: usize = 6;

/// Control tokens that end a text or a turn in the models that are read, whatever the file names as
/// its end (llama.cpp collects them by the same names).
const ENDS: [&str; 6] =
    ["<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"];

/// Of `tokenizer.ggml.pre`: byte-level tokenizers that put a beginning before every text.
const BEGINNING: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];

/// SentencePiece's space.
const SPACE: &str = "▁";

/// What a byte-level tokenizer splits text by before it merges.
struct Splitting {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    ignore_merges: bool,
    nfc: bool,
}

/// By `tokenizer.ggml.pre`, the patterns of llama.cpp's `llm_tokenizer_bpe`; Unicode's composed form
/// as the Hub's tokenizers of the same models have it.
const SPLITS: [Splitting; 4] = [
    Splitting {
        names: &["llama-bpe", "llama3", "llama-v3", "smaug-bpe"],
        patterns: &[concat!(
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        ignore_merges: true,
        nfc: false,
    },
    Splitting {
        names: &["qwen2"],
        patterns: &[concat!(
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        ignore_merges: false,
        nfc: true,
    },
    Splitting { names: &["gpt-2", "gpt2"], patterns: &[GPT2], ignore_merges: false, nfc: false },
    Splitting { names: &["smollm"], patterns: &[r"\p{N}", GPT2], ignore_merges: false, nfc: false },
];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The vocabulary as the file lists it.
pub(super) struct Listed<'a> {
    file: &'a GgufFile,
    pub(super) tokens: Vec<&'a str>,
    kinds: Vec<usize>,
}

/// # Errors
/// A file without a tokenizer, with one of a kind that is not read, or with one at odds with itself.
pub(crate) fn read_tokenizer(file: &GgufFile) -> Result<Tokenizer, ModelError> {
    let listed = Listed::read(file)?;
    let inner = match file.need(MODEL, file.text(MODEL)?)? {
        "llama" => sentence_piece(&listed)?,
        "gpt2" => byte_level(&listed)?,
        other => {
            return Err(file.refused(format!(
                "{MODEL} {other:?} is not supported, only \"llama\" (SentencePiece) and \"gpt2\" \
                 (byte-level BPE)"
            )));
        }
    };
    let mut inner = listed.finish(inner)?;
    let begins = match file.flag("tokenizer.ggml.add_bos_token")? {
        Some(said) => said,
        None => begins_untold(file)? && listed.named("bos")?.is_some(),
    };
    if begins {
        listed.begin(&mut inner)?;
    }
    Tokenizer::built(inner, &file.name())
}

/// Whether texts have a beginning where the file does not say so, as converters of 2024 left it. The same
/// kinds of tokenizer have one in llama.cpp.
fn begins_untold(file: &GgufFile) -> Result<bool, ModelError> {
    Ok(match file.text(MODEL)? {
        Some("llama") => true,
        _ => file.text(PRE)?.is_some_and(|pre| BEGINNING.contains(&pre)),
    })
}

/// The ids that end a text, the file's own end first.
///
/// # Errors
/// An end outside the vocabulary.
pub(crate) fn read_ends(file: &GgufFile) -> Result<Vec<u32>, ModelError> {
    let listed = Listed::read(file)?;
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        if let Some(id) = listed.named(name)? {
            ends.push(id);
        }
    }
    ends.extend((0..listed.tokens.len() as u32).filter(|id| {
        let id = *id as usize;
        listed.kinds[id] == CONTROL && ENDS.contains(&listed.tokens[id])
    }));
    let mut seen = Vec::new();
    ends.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    Ok(ends)
}

impl<'a> Listed<'a> {
    pub(super) fn read(file: &'a GgufFile) -> Result<Self, ModelError> {
        let mut tokens = file.need(TOKENS, file.texts(TOKENS)?)?;
        let mut kinds = file.counts(KINDS)?.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            let (tokens, kinds) = (tokens.len(), kinds.len());
            return Err(file.refused(format!("{TOKENS} has {tokens} entries, {KINDS} {kinds}")));
        }
        // Converters fill the vocabulary up to the size of the embedding.
        while kinds.last() == Some(&UNUSED) {
            kinds.pop();
            tokens.pop();
        }
        if tokens.is_empty() {
            return Err(file.refused(format!("{TOKENS} is empty")));
        }
        Ok(Self { file, tokens, kinds })
    }

    fn vocab(&self) -> Vocab {
        let entry = |(id, token): (usize, &&str)| ((*token).to_owned(), id as u32);
        self.tokens.iter().enumerate().map(entry).collect()
    }

    /// The id of `tokenizer.ggml.NAME_token_id`.
    pub(super) fn named(&self, name: &str) -> Result<Option<u32>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.file.count(&key)? {
            Some(id) if id >= self.tokens.len() => {
                let size = self.tokens.len();
                Err(self.file.refused(format!("{key} {id} is outside the {size} tokens")))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    /// Tokens that are found in a text before anything else is.
    fn finish(
        &self,
        mut inner: tokenizers::Tokenizer,
    ) -> Result<tokenizers::Tokenizer, ModelError> {
        let added = |kind: usize, special: bool| {
            let of_kind = self.tokens.iter().zip(&self.kinds).filter(move |(_, k)| **k == kind);
            of_kind.map(move |(t, _)| AddedToken::from(*t, special).normalized(false))
        };
        let special = inner.add_special_tokens(added(CONTROL, true));
        special
            .and_then(|_| inner.add_tokens(added(USER_DEFINED, false)))
            .map_err(|e| self.file.refused(format!("its special tokens cannot be used: {e}")))?;
        Ok(inner)
    }

    /// What a whole text begins with.
    fn begin(&self, inner: &mut tokenizers::Tokenizer) -> Result<(), ModelError> {
        let id = self.file.need("tokenizer.ggml.bos_token_id", self.named("bos")?)?;
        let token = self.tokens[id as usize].to_owned();
        let processor = TemplateProcessing::builder()
            .try_single(vec![token.clone(), "$A".to_owned()])
            .and_then(|b| b.try_pair(vec![token.clone(), "$A".to_owned(), "$B".to_owned()]))
            .map_err(|e| e.to_string())
            .and_then(|b| b.special_tokens(vec![(token, id)]).build().map_err(|e| e.to_string()))
            .map_err(|e| self.file.refused(format!("its beginning of text cannot be used: {e}")))?;
        inner.with_post_processor(Some(processor));
        Ok(())
    }
}

/// Scores instead of merges: the pair whose union scores highest is joined first.
fn sentence_piece(listed: &Listed<'_>) -> Result<tokenizers::Tokenizer, ModelError> {
    let file = listed.file;
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = file.need(SCORES, file.floats(SCORES)?)?;
    if scores.len() < listed.tokens.len() {
        let (tokens, scores) = (listed.tokens.len(), scores.len());
        return Err(file.refused(format!("{TOKENS} has {tokens} entries, {SCORES} {scores}")));
    }
    let pairs = merges::from_scores(&listed.tokens, &scores);
    let unknown = listed.named("unknown")?.map(|id| listed.tokens[id as usize].to_owned());
    let mut builder = BPE::builder().byte_fallback(listed.kinds.contains(&BYTE)).fuse_unk(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown);
    }
    let mut inner = build(listed, builder, pairs)?;
    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = |from: &str, to: &str| Replace::new(from, to).expect("a plain text is a pattern");
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE, " ").into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(replace(" ", SPACE).into());
    inner
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(|e| file.refused(format!("its spaces cannot be marked: {e}")))?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

fn byte_level(listed: &Listed<'_>) -> Result<tokenizers::Tokenizer, ModelError> {
    let file = listed.file;
    const MERGES: &str = "tokenizer.ggml.merges";
    let pre = file.need(PRE, file.text(PRE)?)?;
    let Some(split) = SPLITS.iter().find(|split| split.names.contains(&pre)) else {
        let known: Vec<&str> = SPLITS.iter().flat_map(|split| split.names).copied().collect();
        let known = known.join(", ");
        return Err(file.refused(format!("{PRE} {pre:?} is not supported, only {known}")));
    };
    let listed_merges = file.need(MERGES, file.texts(MERGES)?)?;
    let pair = |merge: &&str| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    let pairs: Option<Vec<(String, String)>> = listed_merges.iter().map(pair).collect();
    let pairs = pairs.ok_or_else(|| file.refused(format!("{MERGES} has one that is no pair")))?;
    let builder = BPE::builder().ignore_merges(split.ignore_merges);
    let mut inner = build(listed, builder, pairs)?;
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in split.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let step = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(step.expect("the patterns are tested").into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    inner.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    if split.nfc {
        inner
            .with_normalizer(Some(NFC))
            .map_err(|e| file.refused(format!("its texts cannot be composed: {e}")))?;
    }
    Ok(inner)
}

fn build(
    listed: &Listed<'_>,
    builder: BpeBuilder,
    pairs: Vec<(String, String)>,
) -> Result<tokenizers::Tokenizer, ModelError> {
    let model = builder.vocab_and_merges(listed.vocab(), pairs).build();
    let model = model
        .map_err(|e| listed.file.refused(format!("its merges do not fit its vocabulary: {e}")))?;
    Ok(tokenizers::Tokenizer::new(model))
}
