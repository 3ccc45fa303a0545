//! GSM8K's answers: the first number after a `####`, compared after normalisation.
//!
//! The pattern is the strict match of the common evaluation harness, `#### (\-?[0-9\.\,]+)`, first
//! match, with three leniencies: any white space or none may follow the mark, a `$` may precede the
//! number, and a match without any digit does not count. Numbers are compared without `$`,
//! thousands separators, trailing full stops, zeros after the decimals and zeros before the digits,
//! so that `$1,018.00` is `1018`. The field's own rules are in `published`.

use types::Share;

use super::Grade;

const MARK: &str = "####";

/// A number found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// In its normal form.
    pub number: String,
    /// Where its first character stands, bytes.
    pub offset: usize,
}

/// The answer that a solution or a response states; also reads the gold one off a solution.
#[must_use]
pub fn extract(text: &str) -> Option<Extracted> {
    text.match_indices(MARK).find_map(|(at, _)| {
        let after = text[at + MARK.len()..].trim_start_matches('#');
        let rest = after.trim_start();
        let from = text.len() - rest.len();
        let bare = rest.trim_start_matches(['$', '-']);
        let sign = &rest[..rest.len() - bare.len()];
        let length = bare.find(|c: char| !is_number(c)).unwrap_or(bare.len());
        let well_signed = matches!(sign, "" | "-" | "$" | "-$" | "$-");
        let number = normal(&format!("{sign}{}", &bare[..length]))?;
        well_signed.then_some(Extracted { number, offset: from })
    })
}

/// The normal form of a number's text, if it holds a digit.
#[must_use]
pub fn normal(text: &str) -> Option<String> {
    let plain: String = text.trim().chars().filter(|c| !matches!(c, '$' | ',')).collect();
    let (sign, digits) = plain.strip_prefix('-').map_or(("", &*plain), |rest| ("-", rest));
    if !digits.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_end_matches('.').trim_start_matches('0');
    let digits = match digits.split_once('.') {
        Some(_) => digits.trim_end_matches('0').trim_end_matches('.'),
        None => digits,
    };
    Some(match digits {
        "" => "0".to_owned(),
        fraction if fraction.starts_with('.') => format!("{sign}0{fraction}"),
        whole => format!("{sign}{whole}"),
    })
}

/// 1 of 1 if any of the strong model's spans holds a mark of a calculator annotation `<<…>>`; 0 of
/// 0 if it wrote nothing.
#[must_use]
pub fn jargon(strong_spans: &[String]) -> Share {
    let found = strong_spans.iter().any(|text| text.contains("<<") || text.contains(">>"));
    Share { count: u32::from(found), of: u32::from(!strong_spans.is_empty()) }
}

pub(super) fn grade(text: &str, gold: &str) -> Grade {
    let Some(Extracted { number, offset }) = extract(text) else { return Grade::default() };
    let correct = normal(gold).is_some_and(|gold| gold == number);
    Grade { extracted: Some(number), correct, answer_offset: Some(offset) }
}

fn is_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.' || c == ','
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_marked_number_is_extracted_in_its_normal_form() {
        let cases = [
            ("She has 3 left.\n#### 18", Some("18")),
            ("#### $18", Some("18")),
            ("#### 18.", Some("18")),
            ("#### 18.00", Some("18")),
            ("#### 18.50", Some("18.5")),
            ("#### 1,234", Some("1234")),
            ("#### $1,018.00.", Some("1018")),
            ("#### 18...", Some("18")),
            ("#### -5", Some("-5")),
            ("#### -$5", Some("-5")),
            ("#### $-5", Some("-5")),
            ("#### --5", None),
            ("#### 007", Some("7")),
            ("#### 0", Some("0")),
            ("#### -0.0", Some("0")),
            ("#### .50", Some("0.5")),
            ("#### 100", Some("100")),
            ("#### 18 #### 20", Some("18")),
            ("##### 18", Some("18")),
            ("#### none, then #### 20", Some("20")),
            ("#### ... #### 20", Some("20")),
            ("####18", Some("18")),
            ("####  18", Some("18")),
            ("####\n18", Some("18")),
            ("###### 18", Some("18")),
            ("### 18", None),
            ("The answer is 18.", None),
            ("#### ", None),
        ];
        for (text, number) in cases {
            assert_eq!(extract(text).map(|e| e.number).as_deref(), number, "{text}");
        }
    }

    #[test]
    fn gold_and_answer_are_compared_as_numbers() {
        for (text, gold, correct) in [
            ("#### 1000", "1,000", true),
            ("#### 1,000", "1000", true),
            ("#### 10", "100", false),
            ("#### 18.5", "18", false),
            ("#### 18", "", false),
        ] {
            assert_eq!(grade(text, gold).correct, correct, "{text} against {gold}");
        }
        assert_eq!(grade("so\n#### $18", "18").answer_offset, Some(8));
        assert_eq!(grade("so\n####  18", "18").answer_offset, Some(9));
    }

    #[test]
    fn annotations_are_jargon() {
        let of =
            |spans: &[&str]| jargon(&spans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["so", "2*3=<<2*3=6>>6"]), Share { count: 1, of: 1 });
        assert_eq!(of(&["6>> so"]), Share { count: 1, of: 1 });
        assert_eq!(of(&["2 < 3 > 1"]), Share { count: 0, of: 1 });
        assert_eq!(of(&["2*3=<", "<"]), Share { count: 0, of: 1 });
        assert_eq!(of(&[]), Share { count: 0, of: 0 });
    }
}
