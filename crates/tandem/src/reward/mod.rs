//! Grading of a finished text against the gold answer. The reward's shuffling, shaping and the
//! handling of truncated rollouts are the caller's.

pub mod gsm8k;
mod miniature;
mod published;

use types::Finish;

/// How answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GraderKind {
    Miniature,
    /// GSM8K's, numeric and tolerant.
    Gsm8k,
    LmEvalStrict,
    LmEvalFlexible,
    VerlStrict,
    VerlFlexible,
}

/// What the grader found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grade {
    pub extracted: Option<String>,
    pub correct: bool,
    /// Where in the text the extracted answer starts, bytes.
    pub answer_offset: Option<usize>,
}

impl GraderKind {
    /// For files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Miniature | Self::Gsm8k => "own",
            Self::LmEvalStrict => "lm-eval-strict",
            Self::LmEvalFlexible => "lm-eval-flexible",
            Self::VerlStrict => "verl-strict",
            Self::VerlFlexible => "verl-flexible",
        }
    }

    /// Grades `text`, the decoded response without its end. A text is correct only if it came to
    /// an end.
    #[must_use]
    pub fn grade(self, text: &str, gold: &str, finish: Finish) -> Grade {
        let mut grade = self.read(text, gold);
        grade.correct &= finish == Finish::End;
        grade
    }

    /// The same, whether the text came to an end or was cut off: published accuracies ask for no
    /// end.
    #[must_use]
    pub fn read(self, text: &str, gold: &str) -> Grade {
        match self {
            Self::Miniature => miniature::grade(text, gold),
            Self::Gsm8k => gsm8k::grade(text, gold),
            Self::LmEvalStrict => published::lm_eval_strict(text, gold),
            Self::LmEvalFlexible => published::lm_eval_flexible(text, gold),
            Self::VerlStrict => published::verl_strict(text, gold),
            Self::VerlFlexible => published::verl_flexible(text, gold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_text_is_never_correct() {
        for kind in [
            GraderKind::Miniature,
            GraderKind::Gsm8k,
            GraderKind::LmEvalStrict,
            GraderKind::LmEvalFlexible,
            GraderKind::VerlStrict,
            GraderKind::VerlFlexible,
        ] {
            assert!(kind.grade("#### 15", "15", Finish::End).correct);
            let truncated = kind.grade("#### 15", "15", Finish::Truncated);
            assert!(!truncated.correct && kind.read("#### 15", "15").correct);
            assert_eq!(truncated.extracted.as_deref(), Some("15"));
        }
    }
}
