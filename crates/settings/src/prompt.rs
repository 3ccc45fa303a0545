//! Prompts by name. Rendering them is the `task` crate's.

use crate::sections::Prompt;

/// Name and text of each template that `prompt.template` may name.
pub const TEMPLATES: [(&str, &str); 2] = [
    (FIVE_SHOT, "Question: {question}\nAnswer:"),
    (
        "gsm8k-zero-shot",
        "{question} Let's think step by step and output the final answer after \"####\".",
    ),
];

/// lm-evaluation-harness's task `gsm8k`.
const FIVE_SHOT: &str = "gsm8k-5shot";

impl Prompt {
    /// The template's text, in which `{question}` stands for the question.
    #[must_use]
    pub fn text(&self) -> &str {
        let named = TEMPLATES.iter().find(|(name, _)| *name == self.template);
        named.map_or(&self.template, |(_, text)| text)
    }

    /// How many worked examples precede the question.
    #[must_use]
    pub fn shots(&self) -> usize {
        match self.few_shot {
            0 if self.template == FIVE_SHOT => 5,
            shots => shots as usize,
        }
    }
}
