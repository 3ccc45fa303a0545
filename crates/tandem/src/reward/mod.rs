//! Grading of a finished text against the gold answer. The reward's shuffling, shaping and the
//! handling of truncated rollouts are the caller's.

pub mod gsm8k;
mod miniature;

use std::fmt;
use std::str::FromStr;

use types::{Author, Finish};

/// How a data source's answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GraderKind {
    Miniature,
    Gsm8k,
}

/// What the grader found. A text is correct only if an end token finished it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grade {
    pub extracted: Option<String>,
    pub correct: bool,
    /// Where in the text the extracted answer starts, bytes.
    pub answer_offset: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grader '{0}' is none of miniature, gsm8k")]
pub struct UnknownGrader(pub String);

impl GraderKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Miniature => "miniature",
            Self::Gsm8k => "gsm8k",
        }
    }

    /// Grades `text`, the decoded response without its end token.
    #[must_use]
    pub fn grade(self, text: &str, gold: &str, finish: Finish) -> Grade {
        let mut grade = match self {
            Self::Miniature => miniature::grade(text, gold),
            Self::Gsm8k => gsm8k::grade(text, gold),
        };
        grade.correct &= finish == Finish::End;
        grade
    }
}

impl fmt::Display for GraderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GraderKind {
    type Err = UnknownGrader;

    fn from_str(name: &str) -> Result<Self, UnknownGrader> {
        let known = [Self::Miniature, Self::Gsm8k];
        known.into_iter().find(|k| k.name() == name).ok_or_else(|| UnknownGrader(name.to_owned()))
    }
}

/// Who wrote the byte at `offset` of a text: `ends[i]` is the length in bytes of what the first
/// i + 1 response tokens decode to, `authors` are theirs.
#[must_use]
pub fn author_at(authors: &[Author], ends: &[usize], offset: usize) -> Option<Author> {
    let token = ends.iter().position(|end| *end > offset)?;
    authors.get(token).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_text_is_never_correct() {
        for (kind, text) in [(GraderKind::Miniature, "#### 15"), (GraderKind::Gsm8k, "#### 15")] {
            assert!(kind.grade(text, "15", Finish::End).correct);
            let truncated = kind.grade(text, "15", Finish::Truncated);
            assert!(!truncated.correct);
            assert_eq!(truncated.extracted.as_deref(), Some("15"));
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("math".parse::<GraderKind>().is_err());
    }

    #[test]
    fn the_answers_author_wrote_its_first_byte() {
        let (s, w) = (Author::Strong, Author::Weak);
        // "so", " ####", " 15"
        let (authors, ends) = ([s, s, w], [2, 7, 10]);
        assert_eq!(author_at(&authors, &ends, 0), Some(s));
        assert_eq!(author_at(&authors, &ends, 6), Some(s));
        assert_eq!(author_at(&authors, &ends, 8), Some(w));
        assert_eq!(author_at(&authors, &ends, 10), None);
    }
}
