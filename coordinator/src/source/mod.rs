//! Where problems come from: what training deals, in which order, and what is held out.
//! Who works on them is decided in `state`.

mod gsm8k;
mod lead;
mod miniature;

use settings::{DataSource, Objective, Settings};
use types::{Problem, TokenId};

use crate::shard::Place;

pub use gsm8k::{Gsm8k, HELD_OUT, SourceError, read_problems};
pub use lead::{Extent, Lead};
pub use miniature::Miniature;

/// A data source, opened.
#[derive(Clone, Debug)]
pub enum Source {
    Miniature(Miniature),
    Gsm8k(Gsm8k),
}

impl Source {
    /// # Errors
    /// A missing or malformed file of the source.
    pub fn open(settings: &Settings) -> Result<Self, SourceError> {
        match settings.data.source {
            DataSource::Miniature => Ok(Self::Miniature(Miniature::new(settings))),
            DataSource::Gsm8k => Gsm8k::open(settings).map(Self::Gsm8k),
        }
    }

    /// The same for `coordinator eval`, which alone may evaluate on the test set.
    ///
    /// # Errors
    /// A missing or malformed file of the source.
    pub fn open_for_evaluation(settings: &Settings) -> Result<Self, SourceError> {
        match settings.data.source {
            DataSource::Miniature => Ok(Self::Miniature(Miniature::new(settings))),
            DataSource::Gsm8k => Gsm8k::open_for_evaluation(settings).map(Self::Gsm8k),
        }
    }

    /// The problem at one position of the run's sequence.
    pub fn train(&mut self, position: u64) -> Problem {
        match self {
            Self::Miniature(source) => source.train(position),
            Self::Gsm8k(source) => source.train(position),
        }
    }

    /// Epoch and shard of that position.
    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        match self {
            Self::Miniature(source) => source.place(position),
            Self::Gsm8k(source) => source.place(position),
        }
    }

    /// What takes the place of the problem at a position (`train.refill`): drawn in an order of its
    /// own, so that every problem still comes once per epoch whatever is replaced.
    pub fn replacement(&mut self, position: u64) -> Problem {
        match self {
            Self::Miniature(source) => source.replacement(position),
            Self::Gsm8k(source) => source.replacement(position),
        }
    }

    /// Problem number `ordinal` of those that are evaluated, the same before and after training.
    #[must_use]
    pub fn held_out(&self, ordinal: u64) -> Problem {
        match self {
            Self::Miniature(source) => source.held_out(ordinal),
            Self::Gsm8k(source) => source.held_out(ordinal),
        }
    }

    /// The same with the lead of its gold solution, where the source has such solutions.
    #[must_use]
    pub fn led(&self, ordinal: u64, lead: Lead) -> Problem {
        match self {
            Self::Miniature(source) => source.held_out(ordinal),
            Self::Gsm8k(source) => source.led(ordinal, lead),
        }
    }

    /// `None` where there are as many as are asked for.
    #[must_use]
    pub fn held_out_problems(&self) -> Option<u32> {
        match self {
            Self::Miniature(_) => None,
            Self::Gsm8k(source) => Some(source.held_out_problems()),
        }
    }

    /// Tokens that, banned, force the plain style; none where the source has no jargon tokens.
    #[must_use]
    pub fn jargon_tokens(&self) -> Vec<TokenId> {
        match self {
            Self::Miniature(_) => ::miniature::lexicon::jargon_tokens(),
            Self::Gsm8k(_) => Vec::new(),
        }
    }
}

/// Worked solutions travel only where they are imitated.
fn wants_solutions(settings: &Settings) -> bool {
    settings.train.objective == Objective::Sft
}
