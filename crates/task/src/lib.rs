//! What the data source means in tokens: prompts, boundaries, grades, jargon, worked solutions.
//! Where problems come from, and who writes what, is decided elsewhere.

mod chat;
mod compute;
mod prompt;
mod stops;

pub use chat::{ChatTemplate, Message, Told};
pub use compute::{Compute, dtype};
pub use stops::{check_tokenizers, shared_stops};

use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use model::Tokenizer;
use settings::{DataSource, Handoff, Settings};
use tandem::reward::gsm8k;
use tandem::{AuthorRule, Boundaries, GraderKind, NamedBoundaries, Schedule, Session, StopTexts};
use types::{Author, Problem, Purpose, Share, TokenId, Verdict};

use crate::prompt::Prompter;

/// Where words, lines and sentences of the source end, and which texts end a rollout.
///
/// # Errors
/// The miniature with a tokenizer that is not its own: its boundaries and words are token ids.
pub fn boundaries(settings: &Settings, tokenizer: &Tokenizer) -> anyhow::Result<Boundaries> {
    let boundaries = match settings.data.source {
        DataSource::Gsm8k => Boundaries::from_pieces(tokenizer.pieces().iter()),
        DataSource::Miniature => {
            let own = Tokenizer::from_json(&miniature::tokenizer_json(), "the miniature")?;
            let difference = own.difference(tokenizer);
            ensure!(
                difference.is_none(),
                "data.source is miniature but the tokenizer of strong.model = {} is not its own \
                 ({}, its own against the model's): name a builtin: model or another data.source",
                settings.strong.model,
                difference.unwrap_or_default()
            );
            Boundaries::named(&NamedBoundaries {
                every_token_ends_a_word: true,
                line_ends: miniature::lexicon::line_ends(),
                sentence_ends: Vec::new(),
            })
        }
    };
    Ok(boundaries.with_stop_texts(stop_texts(&settings.sampling.stop_texts, tokenizer)))
}

/// A stop text may also be a special token, whose piece is empty.
fn stop_texts(texts: &[String], tokenizer: &Tokenizer) -> StopTexts {
    let whole: Vec<(TokenId, &str)> =
        texts.iter().filter_map(|text| Some((tokenizer.id_of(text)?, text.as_str()))).collect();
    let pieces = tokenizer.pieces().iter().enumerate().map(|(id, piece)| {
        let named = whole.iter().find(|(known, _)| *known as usize == id);
        named.map_or(piece, |(_, text)| *text)
    });
    StopTexts::new(texts, pieces)
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Task(Arc<Parts>);

struct Parts {
    source: DataSource,
    tokenizer: Tokenizer,
    /// Union of both models' ends, the canonical one first.
    stops: Vec<TokenId>,
    boundaries: Arc<Boundaries>,
    handoff: Handoff,
    grader: GraderKind,
    stop_texts: Vec<String>,
    strong: Prompter,
    /// Or why there is none: not every program sees the weak model.
    weak: Result<Prompter, String>,
}

impl Task {
    /// # Errors
    /// A tokenizer that cannot write the source's problems, or a chat template of the strong model
    /// that is asked for and cannot be had.
    pub fn new(
        settings: &Settings,
        tokenizer: Tokenizer,
        stops: Vec<TokenId>,
    ) -> anyhow::Result<Self> {
        let boundaries = boundaries(settings, &tokenizer)?;
        Ok(Self(Arc::new(Parts {
            source: settings.data.source,
            tokenizer,
            stops,
            boundaries: Arc::new(boundaries),
            handoff: settings.handoff.clone(),
            grader: settings.grader(),
            stop_texts: settings.sampling.stop_texts.clone(),
            strong: Prompter::new("strong", &settings.strong.model, &settings.strong.prompt)?,
            weak: Prompter::new("weak", settings.weak_model(), &settings.weak.prompt)
                .map_err(|error| format!("{error:#}")),
        })))
    }

    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Union of both models' ends, the canonical one first.
    #[must_use]
    pub fn stops(&self) -> &[TokenId] {
        &self.0.stops
    }

    /// The author rule of `schedule` over this source's boundaries.
    #[must_use]
    pub fn rule(&self, purpose: Purpose, schedule: Schedule, max_tokens: u32) -> Arc<AuthorRule> {
        let max_gap = match purpose {
            Purpose::Train => self.0.handoff.max_gap,
            Purpose::Eval => Handoff::default().max_gap,
        };
        let boundaries = Arc::clone(&self.0.boundaries);
        Arc::new(AuthorRule { schedule, max_gap, max_tokens, boundaries })
    }

    /// `handoff.weak_may_end` in training. Evaluation does not depend on `handoff.*`: it compares
    /// runs that were trained in different ways, and the weak model alone must come to an end.
    #[must_use]
    pub fn weak_may_end(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Train => self.0.handoff.weak_may_end,
            Purpose::Eval => Handoff::default().weak_may_end,
        }
    }

    /// # Errors
    /// A question that the prompt's template or the tokenizer cannot express.
    pub fn strong_prompt(&self, problem: &Problem) -> anyhow::Result<Vec<TokenId>> {
        self.0.strong.tokens(problem, &self.0.tokenizer)
    }

    /// # Errors
    /// As [`Self::check_weak_prompt`], or a question that cannot be expressed.
    pub fn weak_prompt(&self, problem: &Problem) -> anyhow::Result<Vec<TokenId>> {
        self.weak()?.tokens(problem, &self.0.tokenizer)
    }

    /// Whether weak prompts can be made here.
    ///
    /// # Errors
    /// A chat template of the weak model that is asked for and cannot be had.
    pub fn check_weak_prompt(&self) -> anyhow::Result<()> {
        self.weak().map(drop)
    }

    fn weak(&self) -> anyhow::Result<&Prompter> {
        self.0.weak.as_ref().map_err(|fault| anyhow!("{fault}"))
    }

    /// The worked solution and the canonical end: what supervised fine-tuning imitates after the
    /// strong prompt.
    ///
    /// # Errors
    /// A problem without a solution, or one that the tokenizer cannot express.
    pub fn solution(&self, problem: &Problem) -> anyhow::Result<Vec<TokenId>> {
        let name = || format!("solution of problem {}", problem.id);
        let text = problem.solution.as_deref().with_context(|| format!("no {}", name()))?;
        let text = format!("{}{text}", self.0.strong.gap());
        let mut tokens = self.0.tokenizer.encode(&text).with_context(name)?;
        tokens.push(*self.0.stops.first().context("the model names no end token")?);
        Ok(tokens)
    }

    /// Grades a finished session.
    ///
    /// # Errors
    /// Tokens that do not decode.
    pub fn verdict(&self, session: &Session, problem: &Problem) -> anyhow::Result<Verdict> {
        let finish = session.finish_reason().context("the rollout has not ended")?;
        let (tokens, authors) = (session.response(), session.authors());
        let text = self.text(tokens)?;
        let grade = self.0.grader.grade(&text, &problem.answer, finish);
        let answered_by = match grade.answer_offset {
            Some(offset) => self.author_of(offset, tokens, authors)?,
            None => None,
        };
        Ok(Verdict {
            jargon: self.jargon(tokens, authors)?,
            text,
            extracted: grade.extracted,
            answered_by,
            correct: grade.correct,
            reward: if grade.correct { 1.0 } else { 0.0 },
        })
    }

    /// The response's text without its end, be it a token or a text.
    fn text(&self, tokens: &[TokenId]) -> anyhow::Result<String> {
        let written = match (tokens.split_last(), self.0.stops.first()) {
            (Some((last, before)), Some(end)) if last == end => before,
            _ => tokens,
        };
        let mut text = self.0.tokenizer.decode(written)?;
        let ends = self.0.stop_texts.iter().filter_map(|stop| text.find(stop));
        if let Some(end) = ends.min() {
            text.truncate(end);
        }
        Ok(text)
    }

    /// Who wrote the byte at `offset`: the author of the first token whose prefix decodes beyond it.
    fn author_of(
        &self,
        offset: usize,
        tokens: &[TokenId],
        authors: &[Author],
    ) -> anyhow::Result<Option<Author>> {
        let (mut low, mut high) = (0, tokens.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.0.tokenizer.decode(&tokens[..=middle])?.len() > offset {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(authors.get(low).copied())
    }

    /// Among the strong model's own tokens.
    fn jargon(&self, tokens: &[TokenId], authors: &[Author]) -> anyhow::Result<Share> {
        Ok(match self.0.source {
            DataSource::Miniature => {
                let pieces = self.0.tokenizer.pieces();
                let word = |token: &TokenId| pieces.get(*token as usize).map_or("", |p| p.trim());
                let by_strong = authors.iter().map(|author| *author == Author::Strong);
                miniature::jargon_share(tokens.iter().map(word).zip(by_strong))
            }
            DataSource::Gsm8k => gsm8k::jargon(&self.strong_texts(tokens, authors)?),
        })
    }

    /// The text of each strong span by itself: joined, two spans could spell what neither says.
    fn strong_texts(&self, tokens: &[TokenId], authors: &[Author]) -> anyhow::Result<Vec<String>> {
        let mut rest = tokens;
        let mut texts = Vec::new();
        for run in authors.chunk_by(|a, b| a == b) {
            let (span, after) = rest.split_at(run.len());
            rest = after;
            if run[0] == Author::Strong {
                texts.push(self.0.tokenizer.decode(span)?);
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests;
