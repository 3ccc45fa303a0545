//! A token and who wrote it.

/// Index into the strong tokenizer's vocabulary; strong and weak share one.
pub type TokenId = u32;

/// Who wrote a token. The training mask is derived from this and never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Author {
    Prompt,
    Strong,
    Weak,
}

impl Author {
    /// The byte used in token columns.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Prompt => 0,
            Self::Strong => 1,
            Self::Weak => 2,
        }
    }

    /// # Errors
    /// Any byte but 0, 1, 2.
    pub fn from_code(code: u8) -> Result<Self, UnknownAuthor> {
        match code {
            0 => Ok(Self::Prompt),
            1 => Ok(Self::Strong),
            2 => Ok(Self::Weak),
            other => Err(UnknownAuthor(other)),
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Strong => "strong",
            Self::Weak => "weak",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("author code {0} is none of 0 (prompt), 1 (strong), 2 (weak)")]
pub struct UnknownAuthor(pub u8);
