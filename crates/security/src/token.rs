//! The run's token: what a caller must show. Compared in constant time, never displayed.

use std::fmt;

use subtle::ConstantTimeEq;

/// A shorter token could be guessed.
pub const TOKEN_CHARS_MIN: usize = 32;

const SCHEME: &str = "Bearer ";

/// One secret of the whole run.
#[derive(Clone)]
pub(crate) struct Token(String);

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no token came with the call: give every process the run's security.token_file")]
    Missing,
    #[error("the token is not this run's: give every process the same security.token_file")]
    Wrong,
}

impl Token {
    /// # Errors
    /// A text that no header may carry, or that is too short; the fault does not show it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let found = text.chars().count();
        if found < TOKEN_CHARS_MIN {
            return Err(format!(
                "has a token of {found} characters but it must have at least {TOKEN_CHARS_MIN}: \
                 make one with `coordinator credentials DIR`"
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "has a token with spaces or letters beyond ASCII: use letters, digits and \
                        signs alone, on one line"
                    .to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of an `authorization` header.
    pub(crate) fn bearer(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// How long the comparison takes says nothing of where the texts differ.
    pub(crate) fn check(&self, header: Option<&[u8]>) -> Result<(), Denied> {
        let header = header.ok_or(Denied::Missing)?;
        let (scheme, shown) = header.split_at_checked(SCHEME.len()).ok_or(Denied::Missing)?;
        if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
            return Err(Denied::Missing);
        }
        let same = bool::from(shown.ct_eq(self.0.as_bytes()));
        if same { Ok(()) } else { Err(Denied::Wrong) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0123456789abcdef0123456789ABCDEF";

    #[test]
    fn only_the_whole_token_is_let_in() {
        let token = Token::parse(&format!(" {TEXT}\n")).unwrap();
        let check = |header: &str| token.check(Some(header.as_bytes()));
        assert_eq!(token.bearer(), format!("Bearer {TEXT}"));
        assert_eq!(check(&token.bearer()), Ok(()));
        assert_eq!(check(&format!("bearer {TEXT}")), Ok(()), "schemes have no case");
        assert_eq!(check(&format!("Bearer {}", TEXT.to_lowercase())), Err(Denied::Wrong));
        assert_eq!(check(&format!("Bearer {}", &TEXT[1..])), Err(Denied::Wrong));
        assert_eq!(check(&format!("Bearer {TEXT}0")), Err(Denied::Wrong));
        assert_eq!(check("Bearer "), Err(Denied::Wrong));
        assert_eq!(check(TEXT), Err(Denied::Missing));
        assert_eq!(check(""), Err(Denied::Missing));
        assert_eq!(token.check(None), Err(Denied::Missing));
    }

    #[test]
    fn what_is_no_token_is_refused_and_no_text_shows_one() {
        let short = Token::parse(&TEXT[1..]).unwrap_err();
        assert!(short.contains("31 characters but it must have at least 32"), "{short}");
        let split = Token::parse(&format!("{TEXT} {TEXT}")).unwrap_err();
        assert!(split.contains("with spaces"), "{split}");
        assert!(Token::parse(&format!("{TEXT}é")).is_err());
        let token = Token::parse(TEXT).unwrap();
        let texts = [short, split, format!("{token:?}")];
        assert!(texts.iter().all(|text| !text.contains("01234")), "{texts:?}");
    }
}
