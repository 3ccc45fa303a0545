//! Texts that end a rollout, as a function of the emitted tokens alone, so that both authors and the
//! learner's replay end it after the same token. Ends that are tokens are the session's.

use types::TokenId;

/// What to look for, and what each token of a vocabulary adds to a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopTexts {
    patterns: Vec<Pattern>,
    /// The texts of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token's text ends in `bytes`.
    ends: Vec<usize>,
}

/// One text, with its failure function (Knuth, Morris and Pratt, 1977).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: Vec<u8>,
    /// By matched length − 1: the longest proper border of that prefix.
    borders: Vec<usize>,
}

/// How much of each text the emitted ones end in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StopState {
    /// Empty before the first token.
    matched: Vec<usize>,
    pub(crate) completed: bool,
}

impl StopTexts {
    /// `pieces` are the texts of the whole vocabulary, index = token id. Empty texts are passed
    /// over.
    #[must_use]
    pub fn new<'a>(texts: &[String], pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let patterns: Vec<Pattern> =
            texts.iter().filter(|text| !text.is_empty()).map(|text| Pattern::new(text)).collect();
        let mut stops = Self { patterns, ..Self::default() };
        if !stops.patterns.is_empty() {
            for piece in pieces {
                stops.bytes.extend(piece.as_bytes());
                stops.ends.push(stops.bytes.len());
            }
        }
        stops
    }

    /// The index of the token that completes a text, the first such.
    #[must_use]
    pub fn first_end(&self, tokens: &[TokenId]) -> Option<usize> {
        let mut state = StopState::default();
        tokens.iter().position(|token| {
            self.push(*token, &mut state);
            state.completed
        })
    }

    /// Advances by one emitted token.
    pub(crate) fn push(&self, token: TokenId, state: &mut StopState) {
        if self.patterns.is_empty() {
            return;
        }
        state.matched.resize(self.patterns.len(), 0);
        for (pattern, matched) in self.patterns.iter().zip(&mut state.matched) {
            for byte in self.piece(token) {
                *matched = pattern.advance(*matched, *byte);
                state.completed |= *matched == pattern.text.len();
            }
        }
    }

    fn piece(&self, token: TokenId) -> &[u8] {
        let token = token as usize;
        let Some(end) = self.ends.get(token) else { return &[] };
        let start = token.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..*end]
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pattern = Self { text: text.as_bytes().to_vec(), borders: vec![0] };
        for index in 1..pattern.text.len() {
            let border = pattern.advance(pattern.borders[index - 1], pattern.text[index]);
            pattern.borders.push(border);
        }
        pattern
    }

    /// The matched length after one more byte.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.text.get(matched) == Some(&byte) {
                return matched + 1;
            }
            match matched {
                0 => return 0,
                _ => matched = self.borders[matched - 1],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    const PIECES: [&str; 6] = ["a", "ab", "Question", ":", "Quest", "ion: x"];

    fn first_end(texts: &[&str], tokens: &[TokenId]) -> Option<usize> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        StopTexts::new(&texts, PIECES).first_end(tokens)
    }

    #[test]
    fn a_text_is_found_within_tokens_and_across_them() {
        assert_eq!(first_end(&["Question:"], &[0, 2, 3, 0]), Some(2));
        assert_eq!(first_end(&["Question:"], &[4, 5]), Some(1));
        assert_eq!(first_end(&["Question:"], &[2, 0, 3]), None);
        assert_eq!(first_end(&["Question:", "ab"], &[0, 1, 2]), Some(1));
        assert_eq!(first_end(&["aab"], &[0, 0, 1]), Some(2), "a border is kept");
        assert_eq!(first_end(&[], &[0, 1]), None);
        assert_eq!(first_end(&["Question:"], &[2, 99, 3]), Some(2), "an unknown token has no text");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(4),
            ..ProptestConfig::default()
        })]

        /// Against a search of the whole text after every token.
        #[test]
        fn the_automaton_finds_what_a_search_finds(
            texts in prop::collection::vec("[ab]{3,5}", 1..3),
            pieces in prop::collection::vec("[abc]{0,3}", 1..5),
            tokens in prop::collection::vec(0_u32..5, 0..40),
        ) {
            let stops = StopTexts::new(&texts, pieces.iter().map(String::as_str));
            let mut written = String::new();
            let searched = tokens.iter().position(|token| {
                written.push_str(pieces.get(*token as usize).map_or("", |piece| piece));
                texts.iter().any(|text| written.contains(text))
            });
            prop_assert_eq!(stops.first_end(&tokens), searched);
        }
    }
}
