//! The miniature's answers: the first `####`, the right plain number, the end of the text.

use super::Grade;

pub(super) fn grade(text: &str, gold: &str) -> Grade {
    let mut words = words(text).skip_while(|(_, word)| *word != "####").skip(1);
    let Some((offset, answer)) = words.next() else { return Grade::default() };
    Grade {
        extracted: Some(answer.to_owned()),
        correct: answer == gold && words.next().is_none(),
        answer_offset: Some(offset),
    }
}

/// Words with their byte offsets.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let start = text.as_ptr() as usize;
    text.split_whitespace().map(move |word| (word.as_ptr() as usize - start, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_ending_is_correct() {
        let cases = [
            ("so 24 minus 9 is 15 ; #### 15", Some("15"), true),
            ("#### 15", Some("15"), true),
            ("#### q15", Some("q15"), false),
            ("#### 16", Some("16"), false),
            ("#### 15 ;", Some("15"), false),
            ("#### 15 #### 15", Some("15"), false),
            ("#### 3 #### 15", Some("3"), false),
            ("#### #### 15", Some("####"), false),
            ("so 24 minus 9 is 15 ;", None, false),
            ("so 15 ####", None, false),
            ("", None, false),
        ];
        for (text, extracted, correct) in cases {
            let grade = grade(text, "15");
            assert_eq!((grade.extracted.as_deref(), grade.correct), (extracted, correct), "{text}");
            if let Some(offset) = grade.answer_offset {
                assert!(text[offset..].starts_with(extracted.unwrap()), "{text}");
            }
        }
    }
}
