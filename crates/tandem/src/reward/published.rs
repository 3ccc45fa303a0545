//! The field's own ways of reading GSM8K's answers, to the byte and with their quirks, so that
//! accuracies can be laid beside published ones. The rules: task `gsm8k` 3.0 of
//! EleutherAI/lm-evaluation-harness with its filters and its `exact_match`, and
//! `reward_score/gsm8k.py` of verl. `tests/parity/graders.py` states them independently.

use std::sync::LazyLock;

use regex::Regex;

use super::Grade;

static MARKED: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (-?[0-9.,]+)"));
static NUMBERS_WITH_DOLLARS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"-?[$0-9.,]{2,}|-?[0-9]+"));
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| pattern(r"-?[0-9.,]+"));
static UP_TO_MARK: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s).*#### "));
/// Python's `\.$`: `$` also stands before a line break that ends the text.
static FINAL_STOP: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.(\n?)\z"));

/// verl looks at so many characters from the end.
const VERL_CHARACTERS: usize = 300;

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern that the tests use")
}

/// A number as the rule extracts it, and where it stands.
struct Found<'a> {
    text: &'a str,
    offset: usize,
}

/// `strict-match`: the first marked number.
pub(super) fn lm_eval_strict(text: &str, gold: &str) -> Grade {
    lm_eval(MARKED.captures(text).and_then(|found| found.get(1)), gold)
}

/// `flexible-extract`: the last number, marked or not. A run of dots and commas is one, too.
pub(super) fn lm_eval_flexible(text: &str, gold: &str) -> Grade {
    lm_eval(NUMBERS_WITH_DOLLARS.find_iter(text).last(), gold)
}

fn lm_eval(found: Option<regex::Match<'_>>, gold: &str) -> Grade {
    let Some(found) = found else { return Grade::default() };
    Grade {
        extracted: Some(found.as_str().to_owned()),
        correct: comparable(found.as_str()) == comparable(gold),
        answer_offset: Some(found.start()),
    }
}

/// What `exact_match` compares.
fn comparable(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = UP_TO_MARK.replace_all(&text, "");
    FINAL_STOP.replace(&text, "$1").to_lowercase()
}

/// `strict`: the last marked number among the last 300 characters.
pub(super) fn verl_strict(text: &str, gold: &str) -> Grade {
    let (tail, skipped) = verl_tail(text);
    let last = MARKED.captures_iter(tail).last().and_then(|found| found.get(1));
    let Some(found) = last else { return Grade::default() };
    let extracted = found.as_str().replace(',', "");
    let correct = extracted == verl_gold(gold);
    Grade { extracted: Some(extracted), correct, answer_offset: Some(skipped + found.start()) }
}

/// `flexible`: the last number among the last 300 characters that is not a full stop, else the
/// first of all those full stops. Commas stay, so that `1,234` is never right.
pub(super) fn verl_flexible(text: &str, gold: &str) -> Grade {
    let (tail, skipped) = verl_tail(text);
    let all = NUMBERS.find_iter(tail);
    let all: Vec<Found<'_>> =
        all.map(|found| Found { text: found.as_str(), offset: found.start() }).collect();
    let last = all.iter().rev().find(|found| found.text != ".").or(all.first());
    let Some(found) = last else { return Grade::default() };
    Grade {
        extracted: Some(found.text.to_owned()),
        correct: found.text == verl_gold(gold),
        answer_offset: Some(skipped + found.offset),
    }
}

/// The last characters, and how many bytes precede them.
fn verl_tail(text: &str) -> (&str, usize) {
    let start = text.char_indices().rev().nth(VERL_CHARACTERS - 1).map_or(0, |(at, _)| at);
    (&text[start..], start)
}

/// As its data preparation writes it.
fn verl_gold(gold: &str) -> String {
    gold.replace(',', "")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use types::Finish;

    use crate::GraderKind;

    const VECTORS: &str = include_str!("../../../../tests/parity/graders.jsonl");

    /// Every vector of the independent statement of the rules.
    #[test]
    fn every_rule_agrees_with_its_statement_in_python() {
        let rules = [
            ("lm-eval-strict", GraderKind::LmEvalStrict),
            ("lm-eval-flexible", GraderKind::LmEvalFlexible),
            ("verl-strict", GraderKind::VerlStrict),
            ("verl-flexible", GraderKind::VerlFlexible),
        ];
        let (mut vectors, mut right) = (0, [0; 4]);
        for line in VECTORS.lines() {
            let vector: Value = serde_json::from_str(line).unwrap();
            let (text, gold) = (vector["text"].as_str().unwrap(), vector["gold"].as_str().unwrap());
            for (index, (name, kind)) in rules.iter().enumerate() {
                let grade = kind.grade(text, gold, Finish::End);
                let expected = &vector[*name];
                let found = (grade.extracted.as_deref(), grade.correct);
                let stated = (expected["extracted"].as_str(), expected["correct"] == true);
                assert_eq!(found, stated, "{name} of {text:?} against {gold:?}");
                if let (Some(offset), Some(extracted)) = (grade.answer_offset, found.0) {
                    let there = text[offset..].replace(',', "");
                    let extracted = extracted.replace(',', "");
                    assert!(there.starts_with(&extracted), "{name} of {text:?} at {offset}");
                }
                right[index] += usize::from(grade.correct);
            }
            vectors += 1;
        }
        assert!(vectors > 500, "{vectors} vectors");
        assert!(right.iter().all(|count| *count > 30), "{right:?} right");
    }

    #[test]
    fn quirks_are_kept() {
        let check = |kind: GraderKind, text: &str, extracted: Option<&str>, correct: bool| {
            let grade = kind.grade(text, "18", Finish::End);
            assert_eq!((grade.extracted.as_deref(), grade.correct), (extracted, correct), "{text}");
        };
        check(GraderKind::LmEvalFlexible, "It is 18. Done...", Some("..."), false);
        check(GraderKind::LmEvalFlexible, "It costs $18.00", Some("$18.00"), false);
        check(GraderKind::LmEvalFlexible, "It costs $18.", Some("$18."), true);
        check(GraderKind::LmEvalStrict, "#### $18", None, false);
        check(GraderKind::LmEvalStrict, "#### 18.", Some("18."), true);
        check(GraderKind::VerlStrict, "#### $18", None, false);
        check(GraderKind::VerlStrict, "#### 18.", Some("18."), false);
        check(GraderKind::VerlFlexible, "18 at last. . .", Some("18"), true);
        check(GraderKind::VerlFlexible, ". . .", Some("."), false);
    }
}
