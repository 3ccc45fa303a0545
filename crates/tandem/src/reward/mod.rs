//! Grading of a finished text against the gold answer. The reward's shuffling, shaping and the
//! handling of truncated rollouts are the caller's.

pub mod gsm8k;
mod miniature;

use types::Finish;

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

impl GraderKind {
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
        }
    }
}
