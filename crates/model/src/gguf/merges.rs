//! SentencePiece's BPE as merges: its vocabulary has a score for every token and joins whichever
//! neighbours make the best-scored one. Reading the vocabulary is not done here.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Two ids whose texts make the text of a third.
struct Pair {
    left: u32,
    right: u32,
    score: f32,
    /// In characters.
    widths: (usize, usize),
}

/// Every way to put a token together from two others, the one to be tried first in front. The order
/// is the one of the Hub's converter (`generate_merges` in transformers), so that the merges of a
/// converted model are those of its `tokenizer.json`.
pub(crate) fn from_scores(tokens: &[&str], scores: &[f32]) -> Vec<(String, String)> {
    let by_text: HashMap<&str, u32> =
        tokens.iter().enumerate().map(|(id, token)| (*token, id as u32)).collect();
    let mut pairs = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let first = pairs.len();
        let width = token.chars().count();
        for (chars, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left), Some(right)) = (by_text.get(left), by_text.get(right)) {
                let widths = (chars, width - chars);
                pairs.push(Pair { left: *left, right: *right, score: *score, widths });
            }
        }
        pairs[first..].sort_by_key(|pair| (pair.left, pair.right));
    }
    pairs.sort_by(|a, b| order(b, a));
    let text = |id: u32| tokens[id as usize].to_owned();
    pairs.iter().map(|pair| (text(pair.left), text(pair.right))).collect()
}

fn order(a: &Pair, b: &Pair) -> Ordering {
    a.score.total_cmp(&b.score).then(a.widths.cmp(&b.widths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_scores_come_first_and_then_longer_left_parts() {
        let tokens = ["a", "b", "ab", "aba", "ba", "é", "éa"];
        let scores = [-9.0, -9.0, -2.0, -3.0, -1.0, -9.0, -3.0];
        let found = from_scores(&tokens, &scores);
        let expected = [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba"), ("é", "a")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
