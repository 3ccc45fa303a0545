//! Which words of a rollout are whose: tokens to text by the run's own tokenizer, cut where the
//! author changes. Only the tokenizer is known here, not the page.

use std::path::Path;

use settings::{DataSource, Settings};
use tokenizers::Tokenizer;

use crate::run_dir::{CheckpointChoice, RunDir};

const FILE: &str = "tokenizer.json";

/// Words in a row by one author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) author: String,
    pub(super) text: String,
}

pub(super) struct Decoder(Tokenizer);

impl Decoder {
    /// The tokenizer of a checkpoint, or else that of the strong model; none where neither is here
    /// any more.
    pub(super) fn of(run: &RunDir, settings: &Settings) -> Option<Self> {
        if settings.data.source == DataSource::Miniature {
            return miniature::tokenizer_json().parse().ok().map(Self);
        }
        let checkpoint = run.checkpoint(CheckpointChoice::Latest).ok();
        let kept = checkpoint.map(|checkpoint| checkpoint.path.join(FILE));
        let given = Path::new(&settings.strong.model).join(FILE);
        let found = kept.into_iter().chain([given]).find(|path| path.is_file())?;
        Tokenizer::from_file(found).ok().map(Self)
    }

    /// Everything that was written, in order; none where the tokens are not this tokenizer's.
    pub(super) fn words(&self, tokens: &[u32], authors: &[String]) -> Option<Vec<Words>> {
        if tokens.len() != authors.len() {
            return None;
        }
        let mut found: Vec<Words> = Vec::new();
        let (mut shown, mut start) = (String::new(), 0);
        for run in authors.chunk_by(|a, b| a == b) {
            let end = start + run.len();
            let mut text = self.0.decode(&tokens[..end], false).ok()?;
            if end < tokens.len() {
                // The rest of a character that is not whole yet comes with the next author's words.
                text.truncate(text.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
            }
            let from = common_bytes(&shown, &text);
            found.push(Words { author: run[0].clone(), text: text[from..].to_owned() });
            (shown, start) = (text, end);
        }
        Some(found)
    }
}

/// Of the longest beginning that both texts have.
fn common_bytes(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y);
    same.map(|(c, _)| c.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(decoder: &Decoder, text: &str, authors: &[&str]) -> Vec<(String, String)> {
        let encoding = decoder.0.encode(text, false).unwrap();
        let authors: Vec<String> = authors.iter().map(|author| (*author).to_owned()).collect();
        let words = decoder.words(encoding.get_ids(), &authors).unwrap();
        words.into_iter().map(|words| (words.author, words.text)).collect()
    }

    #[test]
    fn words_are_cut_where_the_author_changes() {
        let decoder = Decoder(miniature::tokenizer_json().parse().unwrap());
        let found =
            words(&decoder, "so 24 minus 9 is", &["strong", "strong", "weak", "weak", "strong"]);
        let expected = [("strong", "so 24"), ("weak", " minus 9"), ("strong", " is")];
        assert_eq!(found, expected.map(|(a, t)| (a.to_owned(), t.to_owned())));
        assert_eq!(decoder.words(&[1, 2], &[]), None);
    }

    #[test]
    fn a_character_of_two_authors_is_shown_once() {
        // Bytes as tokens, as byte-level vocabularies have them.
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
            "normalizer":null,"pre_tokenizer":null,"post_processor":null,
            "decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
            "model":{"type":"BPE","vocab":{"a":0,"Ã":1,"¼":2},"merges":[]}}"#;
        let decoder = Decoder(json.parse().unwrap());
        let authors = ["strong", "strong", "weak"].map(str::to_owned);
        let found = decoder.words(&[0, 1, 2], &authors).unwrap();
        let texts: Vec<&str> = found.iter().map(|words| words.text.as_str()).collect();
        assert_eq!(texts, ["a", "ü"]);
    }
}
