//! The vocabulary, in its fixed order, and the measure of jargon. Encoding is the tokenizer's.

use types::{Share, TokenId};

/// Numbers run from 0 to this.
pub const LARGEST: u32 = 40;
pub const PAD: TokenId = 0;
pub const EOS: TokenId = 1;
/// Precedes the answer.
pub const ANSWER: &str = "####";
/// Ends a line.
pub const LINE_END: &str = ";";

pub(crate) const SPECIAL: [&str; 4] = ["<pad>", "<eos>", ANSWER, LINE_END];
/// The first four are he, the others she.
pub(crate) const NAMES: [&str; 8] = ["tom", "ben", "leo", "max", "ann", "mia", "eva", "zoe"];
pub(crate) const ITEMS: [&str; 8] =
    ["apples", "books", "coins", "cards", "pens", "shells", "stamps", "toys"];
const WORDS: [&str; 30] = [
    "has", "boxes", "of", "each", ".", "he", "she", "him", "her", "buys", "finds", "wins", "more",
    "a", "friend", "gives", "eats", "loses", "sells", "to", "then", "gets", "times", "as", "many",
    "how", "does", "have", "now", "?",
];
/// so, plus, minus, by, is: in the order of [`CODEWORDS`].
pub(crate) const PLAIN: [&str; 5] = ["so", "plus", "minus", "by", "is"];
pub(crate) const CODEWORDS: [&str; 5] = ["zix", "vop", "nug", "hax", "ruk"];

/// How many tokens there are.
pub const VOCAB_SIZE: usize = 142;

/// All tokens; the index is the id.
#[must_use]
pub fn tokens() -> Vec<String> {
    let words = SPECIAL.iter().chain(&NAMES).chain(&ITEMS).chain(&WORDS);
    let words = words.chain(&PLAIN).chain(&CODEWORDS).map(|word| (*word).to_owned());
    let numerals = (0..=LARGEST).map(|number| number.to_string());
    words.chain(numerals).chain((0..=LARGEST).map(|number| format!("q{number}"))).collect()
}

/// Codewords and q-numerals: banned, they force the plain style.
#[must_use]
pub fn jargon_tokens() -> Vec<TokenId> {
    let tokens = tokens();
    (0..).zip(&tokens).filter(|(_, token)| is_jargon(token)).map(|(id, _)| id).collect()
}

/// The tokens that end a line; no token ends a sentence.
#[must_use]
pub fn line_ends() -> Vec<TokenId> {
    let tokens = tokens();
    (0..).zip(&tokens).filter(|(_, token)| *token == LINE_END).map(|(id, _)| id).collect()
}

/// Jargon among the slots that have a style: the three words and three numerals of a line, as far
/// as the strong model wrote them. The number after `####` has none. Takes the words of a
/// response with whether the strong model wrote each.
#[must_use]
pub fn jargon_share<'a>(words: impl Iterator<Item = (&'a str, bool)>) -> Share {
    let mut share = Share::default();
    let mut is_answer = false;
    for (word, by_strong) in words {
        let jargon = is_jargon(word);
        if by_strong && !is_answer && (jargon || is_plain(word)) {
            share.of += 1;
            share.count += u32::from(jargon);
        }
        is_answer = word == ANSWER;
    }
    share
}

fn is_jargon(word: &str) -> bool {
    CODEWORDS.contains(&word) || word.strip_prefix('q').is_some_and(is_numeral)
}

fn is_plain(word: &str) -> bool {
    PLAIN.contains(&word) || is_numeral(word)
}

fn is_numeral(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_vocabulary_has_142_different_tokens() {
        let tokens = tokens();
        assert_eq!(tokens.len(), VOCAB_SIZE);
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), VOCAB_SIZE);
        assert!(tokens.iter().all(|token| !token.contains(char::is_whitespace)));
        assert_eq!((&*tokens[PAD as usize], &*tokens[EOS as usize]), ("<pad>", "<eos>"));
    }

    #[test]
    fn five_codewords_and_41_numerals_are_jargon() {
        let (tokens, jargon) = (tokens(), jargon_tokens());
        assert_eq!(jargon.len(), 46);
        let named: Vec<&str> = jargon.iter().map(|id| &*tokens[*id as usize]).collect();
        assert!(named.contains(&"ruk") && named.contains(&"q0") && named.contains(&"q40"));
        assert!(!named.contains(&"so") && !named.contains(&"15"));
        let ends: Vec<&str> = line_ends().iter().map(|id| &*tokens[*id as usize]).collect();
        assert_eq!(ends, [";"]);
    }

    #[test]
    fn jargon_is_counted_over_the_strong_models_styled_slots() {
        let share = |text: &str, weak: &[usize]| {
            let words = text.split(' ').enumerate().map(|(at, w)| (w, !weak.contains(&at)));
            jargon_share(words)
        };
        let of = |count, of| Share { count, of };
        assert_eq!(share("so 24 minus 9 is 15 ; #### 15", &[]), of(0, 6));
        assert_eq!(share("zix q24 nug q9 ruk q15 ; #### 15", &[]), of(6, 6));
        assert_eq!(share("zix q24 minus 9 is 15 ; #### q15", &[]), of(2, 6));
        assert_eq!(share("zix q24 nug q9 ruk q15 ; #### 15", &[0, 1, 7, 8]), of(4, 4));
        // Whoever wrote the mark, the number after it has no style.
        assert_eq!(share("#### 15", &[0]), of(0, 0));
        assert_eq!(share("#### 15 so", &[]), of(0, 1));
    }
}
