//! The vocabulary as a Hugging Face `tokenizer.json`. Reading it back is the `tokenizers` crate's.

use serde_json::{Map, Value, json};

use crate::lexicon;

/// Whole words between white space. A word outside the vocabulary is an error, not a token: the
/// named unknown token does not exist.
#[must_use]
pub fn tokenizer_json() -> String {
    let tokens = lexicon::tokens();
    let vocab: Map<String, Value> =
        (0u32..).zip(&tokens).map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = [lexicon::PAD, lexicon::EOS].map(|id| {
        json!({
            "id": id,
            "content": tokens[id as usize],
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special,
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
    });
    format!("{tokenizer:#}\n")
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;
    use crate::{Split, Style, draw};

    fn tokenizer() -> Tokenizer {
        tokenizer_json().parse().unwrap()
    }

    #[test]
    fn ids_follow_the_lexicon() {
        let tokenizer = tokenizer();
        assert_eq!(tokenizer.get_vocab_size(true), lexicon::VOCAB_SIZE);
        for (id, token) in (0..).zip(lexicon::tokens()) {
            assert_eq!(tokenizer.token_to_id(&token), Some(id));
            assert_eq!(tokenizer.id_to_token(id), Some(token));
        }
    }

    #[test]
    fn every_problem_survives_the_round_trip() {
        let tokenizer = tokenizer();
        for index in 0..5_000 {
            let problem = draw(Split::Train, 2, index, Style::JargonShare(0.5));
            let text = format!("{} {}", problem.question, problem.solution.unwrap());
            let encoding = tokenizer.encode(text.as_str(), true).unwrap();
            assert_eq!(encoding.len(), text.split(' ').count());
            assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
        }
    }

    #[test]
    fn the_end_is_one_special_token_and_unknown_words_are_refused() {
        let tokenizer = tokenizer();
        let encoding = tokenizer.encode("#### 15 <eos>", false).unwrap();
        assert_eq!(encoding.get_ids()[2], lexicon::EOS);
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), "#### 15");
        assert!(tokenizer.encode("tom has 41 apples", false).is_err());
    }
}
