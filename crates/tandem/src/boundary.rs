//! Which emitted tokens end a word, a line, a sentence or the whole text. Who then writes on is
//! decided in `authors`.

use types::TokenId;

use crate::StopTexts;

/// Boundary tokens that a data source names itself, instead of having them read off their texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedBoundaries {
    pub every_token_ends_a_word: bool,
    pub line_ends: Vec<TokenId>,
    pub sentence_ends: Vec<TokenId>,
}

/// What each token of a vocabulary means for boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundaries {
    effects: Vec<Effect>,
    /// Of every token beyond the table.
    other: Effect,
    stop_texts: StopTexts,
}

/// What a token ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) word: bool,
    pub(crate) line: bool,
    pub(crate) sentence: bool,
}

/// The end of the emitted text, as far as sentences need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The text ends in a line break that is not yet part of a `\n\n`.
    line_break: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effect {
    word: bool,
    line: bool,
    after_text: Sentence,
    after_line_break: Sentence,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sentence {
    ends: bool,
    tail: Tail,
}

impl Boundaries {
    /// Reads boundaries off the decoded texts of the whole vocabulary, index = token id. A word
    /// ends after a token whose text starts with a space (arXiv 2606.28166: BPE's `Ġ`); a line
    /// after one that completes `\n`; a sentence after one that completes `\n\n`, alone or together
    /// with the token before.
    #[must_use]
    pub fn from_pieces<T: AsRef<str>>(pieces: impl IntoIterator<Item = T>) -> Self {
        let effects = pieces.into_iter().map(|piece| Effect::of(piece.as_ref())).collect();
        Self { effects, other: Effect::default(), stop_texts: StopTexts::default() }
    }

    #[must_use]
    pub fn named(named: &NamedBoundaries) -> Self {
        let other = Effect { word: named.every_token_ends_a_word, ..Effect::default() };
        let last = named.line_ends.iter().chain(&named.sentence_ends).max();
        let mut effects = vec![other; last.map_or(0, |id| *id as usize + 1)];
        for id in &named.line_ends {
            effects[*id as usize].line = true;
        }
        for id in &named.sentence_ends {
            let sentence = Sentence { ends: true, tail: Tail::default() };
            effects[*id as usize].after_text = sentence;
            effects[*id as usize].after_line_break = sentence;
        }
        Self { effects, other, stop_texts: StopTexts::default() }
    }

    /// The same, with texts that end a rollout.
    #[must_use]
    pub fn with_stop_texts(self, stop_texts: StopTexts) -> Self {
        Self { stop_texts, ..self }
    }

    #[must_use]
    pub fn stop_texts(&self) -> &StopTexts {
        &self.stop_texts
    }

    /// What `token`, emitted after a text ending in `tail`, ends; advances `tail`.
    pub(crate) fn ends(&self, token: TokenId, tail: &mut Tail) -> Ends {
        let effect = self.effects.get(token as usize).unwrap_or(&self.other);
        let sentence = if tail.line_break { effect.after_line_break } else { effect.after_text };
        *tail = sentence.tail;
        Ends { word: effect.word, line: effect.line, sentence: sentence.ends }
    }
}

impl Effect {
    fn of(piece: &str) -> Self {
        Self {
            word: piece.starts_with(' '),
            line: piece.contains('\n'),
            after_text: Sentence::read(piece, Tail { line_break: false }),
            after_line_break: Sentence::read(piece, Tail { line_break: true }),
        }
    }
}

impl Sentence {
    /// Pairs line breaks without overlap: a third one in a row starts a new pair.
    fn read(piece: &str, mut tail: Tail) -> Self {
        let mut ends = false;
        for c in piece.chars() {
            let completed = c == '\n' && tail.line_break;
            tail.line_break = c == '\n' && !completed;
            ends |= completed;
        }
        Self { ends, tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: [&str; 8] = ["The", " cat", "s", "\n", ".\n\n", ".\n", "\nSo", ""];

    fn ends(unit: fn(Ends) -> bool, tokens: &[TokenId]) -> Vec<bool> {
        let boundaries = Boundaries::from_pieces(PIECES);
        let mut tail = Tail::default();
        tokens.iter().map(|t| unit(boundaries.ends(*t, &mut tail))).collect()
    }

    const WORD: fn(Ends) -> bool = |ends| ends.word;
    const LINE: fn(Ends) -> bool = |ends| ends.line;
    const SENTENCE: fn(Ends) -> bool = |ends| ends.sentence;

    #[test]
    fn words_end_after_the_token_that_begins_one() {
        assert_eq!(ends(WORD, &[0, 1, 2, 3, 6, 7]), [false, true, false, false, false, false]);
    }

    #[test]
    fn lines_end_where_a_line_break_is_completed() {
        assert_eq!(ends(LINE, &[0, 3, 4, 5, 6, 2]), [false, true, true, true, true, false]);
    }

    #[test]
    fn sentences_end_within_a_token_and_across_two() {
        assert_eq!(ends(SENTENCE, &[0, 4, 1]), [false, true, false]);
        assert_eq!(ends(SENTENCE, &[5, 3, 1]), [false, true, false]);
        assert_eq!(ends(SENTENCE, &[5, 6, 3]), [false, true, false]);
        // An empty piece does not come between two line breaks, a letter does.
        assert_eq!(ends(SENTENCE, &[3, 7, 3]), [false, false, true]);
        assert_eq!(ends(SENTENCE, &[3, 2, 3]), [false, false, false]);
        // Four line breaks in a row are two ends, not three.
        assert_eq!(ends(SENTENCE, &[3, 3, 3, 3]), [false, true, false, true]);
        assert_eq!(ends(SENTENCE, &[4, 3, 3]), [true, false, true]);
    }

    #[test]
    fn tokens_outside_the_vocabulary_end_nothing() {
        assert_eq!(ends(WORD, &[99]), [false]);
    }

    #[test]
    fn a_source_may_name_its_boundaries() {
        let boundaries = Boundaries::named(&NamedBoundaries {
            every_token_ends_a_word: true,
            line_ends: vec![3],
            sentence_ends: vec![5],
        });
        let ends = |token: TokenId| boundaries.ends(token, &mut Tail::default());
        assert!(ends(0).word && ends(3).word && ends(1000).word);
        assert!(ends(3).line && !ends(4).line && !ends(1000).line);
        assert!(ends(5).sentence && !ends(3).sentence);
    }
}
