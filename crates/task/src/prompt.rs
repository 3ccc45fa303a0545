//! From a question to the tokens that a model continues: template, worked examples, chat, and the
//! beginning-of-text token. Which examples those are is the data source's.

use anyhow::{Context, ensure};
use chrono::NaiveDate;
use model::{ModelSource, Tokenizer};
use settings::Prompt;
use types::{Problem, TokenId};

use crate::chat::{ChatTemplate, Message, Told};

/// How one of the two models is asked.
pub(crate) struct Prompter {
    template: String,
    shots: usize,
    system: String,
    chat: Option<ChatTemplate>,
}

impl Prompter {
    /// `key` is `strong` or `weak`, `model` its model's name.
    ///
    /// # Errors
    /// A chat template that is asked for and missing or broken, or a date that is none.
    pub(crate) fn new(key: &str, model: &str, prompt: &Prompt) -> anyhow::Result<Self> {
        let chat = prompt.chat.then(|| {
            let date = NaiveDate::parse_from_str(&prompt.date, "%Y-%m-%d");
            let date = date.with_context(|| {
                format!("{key}.prompt.date is `{}`: write YYYY-MM-DD", prompt.date)
            })?;
            let files = ModelSource::parse(model)?.extras()?;
            ChatTemplate::read(&files, model, Told { date, thinking: prompt.thinking })
        });
        let chat = chat.transpose().with_context(|| format!("{key}.prompt.chat"))?;
        let (template, system) = (prompt.text().to_owned(), prompt.system.clone());
        Ok(Self { template, shots: prompt.shots(), system, chat })
    }

    /// # Errors
    /// Too few examples, a chat template that refuses the conversation, or text that the tokenizer
    /// cannot express.
    pub(crate) fn tokens(
        &self,
        problem: &Problem,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Vec<TokenId>> {
        let name = || format!("prompt of problem {}", problem.id);
        let mut text = self.text(problem)?;
        if let Some(lead) = &problem.lead {
            text.push_str(self.gap());
            text.push_str(lead);
        }
        let mut tokens = tokenizer.encode(&text).with_context(name)?;
        let prefix = tokenizer.prefix();
        // A chat template writes all that its model wants to see.
        if self.chat.is_none() && !tokens.starts_with(&prefix) {
            tokens.splice(0..0, prefix);
        }
        ensure!(!tokens.is_empty(), "the {} has no tokens", name());
        Ok(tokens)
    }

    /// The prompt as the model is to read it, but for a beginning-of-text token and the lead.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub(crate) fn text(&self, problem: &Problem) -> anyhow::Result<String> {
        let shots = problem.shots.get(..self.shots).with_context(|| {
            let (found, wanted) = (problem.shots.len(), self.shots);
            format!("problem {} came with {found} examples, the prompt shows {wanted}", problem.id)
        })?;
        let asked = |question: &str| self.template.replace("{question}", question);
        let Some(chat) = &self.chat else {
            let examples = shots.iter().map(|shot| {
                let question = asked(&shot.question);
                let gap = gap_after(&question);
                format!("{question}{gap}{}\n\n", shot.solution)
            });
            return Ok(examples.chain([asked(&problem.question)]).collect());
        };
        let message = |role, content| Message { role, content };
        let mut messages = Vec::new();
        if !self.system.is_empty() {
            messages.push(message("system", self.system.clone()));
        }
        for shot in shots {
            messages.push(message("user", asked(&shot.question)));
            messages.push(message("assistant", shot.solution.clone()));
        }
        messages.push(message("user", asked(&problem.question)));
        chat.render(&messages).with_context(|| format!("prompt of problem {}", problem.id))
    }

    /// What stands between the prompt and its answer.
    pub(crate) fn gap(&self) -> &'static str {
        if self.chat.is_some() { "" } else { gap_after(&self.template) }
    }
}

/// A space, unless the text ends in white space.
fn gap_after(text: &str) -> &'static str {
    if text.ends_with(char::is_whitespace) { "" } else { " " }
}

#[cfg(test)]
mod tests;
