//! One problem as its source states it, before any prompt template.

/// A question with its gold answer, and a worked solution where the source has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable within the source: line number, or the seed it was generated from.
    pub id: u64,
    pub question: String,
    /// The whole solution, ending in `#### answer`: what supervised fine-tuning imitates.
    pub solution: Option<String>,
    pub answer: String,
    /// Worked examples for few-shot prompts, as many as the longer of the two prompts shows.
    pub shots: Vec<Shot>,
    /// What the answer begins with, the same for both models; no part of the response.
    pub lead: Option<String>,
}

/// A worked example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    pub question: String,
    pub solution: String,
}
