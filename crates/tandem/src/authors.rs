//! The one state machine that says who writes the next token, and the replay that checks a
//! finished rollout against it. Actor, weak server and learner all run it; none keeps another.

use std::sync::Arc;

use types::{Author, Rollout, TokenId};

use crate::boundary::Tail;
use crate::stop_texts::StopState;
use crate::{Boundaries, RandomKey, Schedule, Unit};

/// What all rollouts of one schedule share.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorRule {
    pub schedule: Schedule,
    /// So many tokens without a word boundary force a redraw; 0 never does. Words only.
    pub max_gap: u32,
    /// The response's limit, which `takeover` takes its fraction of.
    pub max_tokens: u32,
    pub boundaries: Arc<Boundaries>,
}

/// A boundary that lies after the token just emitted; number 0 precedes the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    pub index: u64,
    /// By [`AuthorRule::max_gap`], not by the text.
    pub forced: bool,
}

/// Who writes the next token of one rollout. Advances on emitted tokens only.
#[derive(Clone, Debug)]
pub struct Authors {
    rule: Arc<AuthorRule>,
    key: RandomKey,
    author: Author,
    position: u32,
    next_boundary: u64,
    since_boundary: u32,
    forced_redraws: u32,
    tail: Tail,
    stop: StopState,
}

/// Why recorded authors are not the schedule's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorMismatch {
    #[error("{authors} authors for {tokens} response tokens")]
    Lengths { tokens: usize, authors: usize },
    #[error("{tokens} response tokens exceed the limit of {max_tokens}")]
    TooLong { tokens: usize, max_tokens: u32 },
    #[error(
        "token {position} of the response is recorded as {}, the schedule gives it to {}",
        recorded.name(), replayed.name()
    )]
    Token { position: usize, recorded: Author, replayed: Author },
    #[error("{recorded} forced redraws recorded, the schedule forces {replayed}")]
    ForcedRedraws { recorded: u32, replayed: u32 },
}

impl Authors {
    #[must_use]
    pub fn new(rule: Arc<AuthorRule>, key: RandomKey) -> Self {
        let mut authors = Self {
            rule,
            key,
            author: Author::Strong,
            position: 0,
            next_boundary: 0,
            since_boundary: 0,
            forced_redraws: 0,
            tail: Tail::default(),
            stop: StopState::default(),
        };
        authors.redraw(false);
        authors
    }

    /// Of the next token: strong or weak.
    #[must_use]
    pub fn author(&self) -> Author {
        self.author
    }

    /// Tokens emitted so far; the index of the next one.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.position
    }

    #[must_use]
    pub fn forced_redraws(&self) -> u32 {
        self.forced_redraws
    }

    /// The emitted tokens hold one of the source's stop texts.
    #[must_use]
    pub fn text_is_over(&self) -> bool {
        self.stop.completed
    }

    #[must_use]
    pub fn key(&self) -> RandomKey {
        self.key
    }

    #[must_use]
    pub fn rule(&self) -> &Arc<AuthorRule> {
        &self.rule
    }

    /// Advances by one emitted token; says whether a boundary lies after it. The author may stay
    /// the same across a boundary.
    pub fn push(&mut self, token: TokenId) -> Option<Boundary> {
        self.position += 1;
        self.since_boundary += 1;
        self.rule.boundaries.stop_texts().push(token, &mut self.stop);
        let (ends, may_force) = match self.rule.schedule {
            Schedule::Bernoulli { unit, .. } | Schedule::Alternate { unit } => {
                (self.ends(unit, token), unit == Unit::Word)
            }
            Schedule::Markov { .. } => (true, false),
            Schedule::Takeover { .. } => (self.ends(Unit::Word, token), true),
        };
        let max_gap = self.rule.max_gap;
        let forced = !ends && may_force && max_gap > 0 && self.since_boundary >= max_gap;
        (ends || forced).then(|| self.redraw(forced))
    }

    /// Like [`Self::push`], for a token that somebody claims to have written.
    ///
    /// # Errors
    /// It was not that author's turn; nothing has changed then.
    pub fn push_by(
        &mut self,
        author: Author,
        token: TokenId,
    ) -> Result<Option<Boundary>, AuthorMismatch> {
        if author != self.author {
            let position = self.position as usize;
            let (recorded, replayed) = (author, self.author);
            return Err(AuthorMismatch::Token { position, recorded, replayed });
        }
        Ok(self.push(token))
    }

    fn ends(&mut self, unit: Unit, token: TokenId) -> bool {
        let ends = self.rule.boundaries.ends(token, &mut self.tail);
        match unit {
            Unit::Token => true,
            Unit::Word => ends.word,
            Unit::Line => ends.line,
            Unit::Sentence => ends.sentence,
            Unit::Chunk(tokens) => self.since_boundary >= tokens,
        }
    }

    fn redraw(&mut self, forced: bool) -> Boundary {
        let boundary = Boundary { index: self.next_boundary, forced };
        self.author = self.drawn(boundary.index);
        self.next_boundary += 1;
        self.since_boundary = 0;
        self.forced_redraws += u32::from(forced);
        boundary
    }

    fn drawn(&self, boundary: u64) -> Author {
        let coin = || self.key.coin(boundary);
        let weak = match self.rule.schedule {
            Schedule::Bernoulli { p, .. } => coin() < p,
            Schedule::Markov { p, stay } => {
                let u = coin();
                if boundary == 0 {
                    u < p
                } else if u < stay {
                    return self.author;
                } else {
                    // Given u ≥ stay, the rest of the coin is uniform again.
                    u - stay < p * (1.0 - stay)
                }
            }
            Schedule::Alternate { .. } => boundary % 2 == 1,
            Schedule::Takeover { f } => f64::from(self.position) >= f * self.limit(),
        };
        if weak { Author::Weak } else { Author::Strong }
    }

    fn limit(&self) -> f64 {
        f64::from(self.rule.max_tokens)
    }
}

/// The author of every one of `tokens`, the response without its prompt.
#[must_use]
pub fn replay(rule: &Arc<AuthorRule>, key: RandomKey, tokens: &[TokenId]) -> Vec<Author> {
    let mut authors = Authors::new(Arc::clone(rule), key);
    let replayed = tokens.iter().map(|token| {
        let author = authors.author();
        authors.push(*token);
        author
    });
    replayed.collect()
}

/// Replays the schedule over a response and compares.
///
/// # Errors
/// Columns of different lengths, more tokens than the limit, any author that differs.
pub fn check_authors(
    rule: &Arc<AuthorRule>,
    key: RandomKey,
    tokens: &[TokenId],
    authors: &[Author],
) -> Result<(), AuthorMismatch> {
    checked(rule, key, tokens, authors).map(drop)
}

/// [`check_authors`] for a whole rollout, its count of forced redraws included.
///
/// # Errors
/// As [`check_authors`], and a wrong count.
pub fn check_rollout(
    rule: &Arc<AuthorRule>,
    key: RandomKey,
    rollout: &Rollout,
) -> Result<(), AuthorMismatch> {
    let (parts, response) = (rollout.parts(), rollout.response());
    let tokens = &parts.tokens[response.clone()];
    let replayed = checked(rule, key, tokens, &parts.authors[response])?.forced_redraws;
    let recorded = parts.forced_redraws;
    if recorded != replayed {
        return Err(AuthorMismatch::ForcedRedraws { recorded, replayed });
    }
    Ok(())
}

fn checked(
    rule: &Arc<AuthorRule>,
    key: RandomKey,
    tokens: &[TokenId],
    authors: &[Author],
) -> Result<Authors, AuthorMismatch> {
    if tokens.len() != authors.len() {
        let (tokens, authors) = (tokens.len(), authors.len());
        return Err(AuthorMismatch::Lengths { tokens, authors });
    }
    if tokens.len() > rule.max_tokens as usize {
        let (tokens, max_tokens) = (tokens.len(), rule.max_tokens);
        return Err(AuthorMismatch::TooLong { tokens, max_tokens });
    }
    let mut state = Authors::new(Arc::clone(rule), key);
    for (token, author) in tokens.iter().zip(authors) {
        state.push_by(*author, *token)?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
