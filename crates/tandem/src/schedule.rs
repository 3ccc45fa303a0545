//! Schedules and their written forms. How they draw authors is decided in `authors`.

use std::fmt;
use std::str::FromStr;

/// Where boundaries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    Token,
    Word,
    Line,
    Sentence,
    /// `chunk:8`: after every so many tokens, at least one.
    Chunk(u32),
}

/// Units whose name says all.
const NAMED: [(&str, Unit); 4] = [
    ("token", Unit::Token),
    ("word", Unit::Word),
    ("line", Unit::Line),
    ("sentence", Unit::Sentence),
];

impl Unit {
    /// Of the units without a number: token, word, line, sentence.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMED.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit)
    }
}

/// The rule that draws authors. Probabilities are the weak model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// `word:0.25`, `chunk:8:0.25`: redrawn at every boundary.
    Bernoulli { unit: Unit, p: f64 },
    /// `markov:0.25:0.8`: kept with probability `stay` after every token, else redrawn.
    Markov { p: f64, stay: f64 },
    /// `alternate:line`: strict turns, the strong model first.
    Alternate { unit: Unit },
    /// `takeover:0.5`: strong first; the weak model takes over at the first word boundary at or
    /// after `f` × the token limit and finishes.
    Takeover { f: f64 },
}

const FORMS: &str = "known forms are token:P, word:P, line:P, sentence:P, chunk:N:P, \
    markov:P:STAY, alternate:UNIT, takeover:F (for instance word:0.25 or alternate:chunk:8)";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("schedule '{0}' is not known; {FORMS}")]
    Unknown(String),
    #[error("schedule '{schedule}' has {found} parts after '{kind}' but needs {needed}; {FORMS}")]
    Parts { schedule: String, kind: String, found: usize, needed: usize },
    #[error("schedule '{schedule}': {what} '{found}' is not a number from 0 to 1")]
    Probability { schedule: String, what: &'static str, found: String },
    #[error("schedule '{schedule}': chunk length '{found}' is not a whole number of at least 1")]
    ChunkLength { schedule: String, found: String },
    #[error(
        "schedule '{schedule}': unit '{found}' is none of token, word, line, sentence, chunk:N"
    )]
    Unit { schedule: String, found: String },
}

impl Schedule {
    /// The strong model alone.
    pub const STRONG_ALONE: Self = Self::Bernoulli { unit: Unit::Token, p: 0.0 };
    /// The weak model alone.
    pub const WEAK_ALONE: Self = Self::Bernoulli { unit: Unit::Token, p: 1.0 };

    /// What a schedule built by hand must satisfy; parsed ones already do.
    ///
    /// # Errors
    /// A probability outside 0..=1 or an empty chunk.
    pub fn check(&self) -> Result<(), ScheduleError> {
        if let Self::Bernoulli { unit: Unit::Chunk(0), .. }
        | Self::Alternate { unit: Unit::Chunk(0) } = self
        {
            let (schedule, found) = (self.to_string(), "0".to_owned());
            return Err(ScheduleError::ChunkLength { schedule, found });
        }
        let probabilities: &[(&'static str, f64)] = match *self {
            Self::Bernoulli { p, .. } => &[(PROBABILITY, p)],
            Self::Markov { p, stay } => &[(PROBABILITY, p), (STAY, stay)],
            Self::Alternate { .. } => &[],
            Self::Takeover { f } => &[(FRACTION, f)],
        };
        match probabilities.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            None => Ok(()),
            Some(&(what, value)) => {
                let (schedule, found) = (self.to_string(), value.to_string());
                Err(ScheduleError::Probability { schedule, what, found })
            }
        }
    }

    /// No coin can give the weak model a turn, so that no weak server is needed.
    #[must_use]
    pub fn is_strong_alone(&self) -> bool {
        matches!(*self, Self::Bernoulli { p: 0.0, .. } | Self::Markov { p: 0.0, .. })
    }

    /// No coin can give the strong model a turn.
    #[must_use]
    pub fn is_weak_alone(&self) -> bool {
        matches!(
            *self,
            Self::Bernoulli { p: 1.0, .. }
                | Self::Markov { p: 1.0, .. }
                | Self::Takeover { f: 0.0 }
        )
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(tokens) => write!(f, "chunk:{tokens}"),
            unit => {
                let named = NAMED.iter().find(|(_, named)| named == unit);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bernoulli { unit, p } => write!(f, "{unit}:{p}"),
            Self::Markov { p, stay } => write!(f, "markov:{p}:{stay}"),
            Self::Alternate { unit } => write!(f, "alternate:{unit}"),
            Self::Takeover { f: fraction } => write!(f, "takeover:{fraction}"),
        }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let parts: Vec<&str> = text.split(':').collect();
        let form = Form { text, kind: parts[0] };
        match (parts[0], &parts[1..]) {
            ("markov", rest) => {
                let [p, stay] = form.exactly(rest)?;
                let p = form.probability(PROBABILITY, p)?;
                Ok(Self::Markov { p, stay: form.probability(STAY, stay)? })
            }
            ("alternate", []) => Err(form.parts(0, 1)),
            ("alternate", unit) => Ok(Self::Alternate { unit: form.unit(unit)? }),
            ("takeover", rest) => {
                let [f] = form.exactly(rest)?;
                Ok(Self::Takeover { f: form.probability(FRACTION, f)? })
            }
            ("chunk", rest) => {
                let [tokens, p] = form.exactly(rest)?;
                let unit = form.unit(&["chunk", tokens])?;
                Ok(Self::Bernoulli { unit, p: form.probability(PROBABILITY, p)? })
            }
            (kind, rest) if Unit::from_name(kind).is_some() => {
                let [p] = form.exactly(rest)?;
                let unit = form.unit(&[kind])?;
                Ok(Self::Bernoulli { unit, p: form.probability(PROBABILITY, p)? })
            }
            _ => Err(ScheduleError::Unknown(text.to_owned())),
        }
    }
}

const PROBABILITY: &str = "probability";
const STAY: &str = "probability to stay";
const FRACTION: &str = "fraction";

struct Form<'a> {
    text: &'a str,
    kind: &'a str,
}

impl Form<'_> {
    fn exactly<'p, const N: usize>(
        &self,
        parts: &[&'p str],
    ) -> Result<[&'p str; N], ScheduleError> {
        parts.try_into().map_err(|_| self.parts(parts.len(), N))
    }

    fn parts(&self, found: usize, needed: usize) -> ScheduleError {
        let (schedule, kind) = (self.text.to_owned(), self.kind.to_owned());
        ScheduleError::Parts { schedule, kind, found, needed }
    }

    fn probability(&self, what: &'static str, part: &str) -> Result<f64, ScheduleError> {
        let value: Option<f64> = part.parse().ok();
        // Adding 0 turns a negative zero, which would be written differently, into zero.
        value.filter(|v| (0.0..=1.0).contains(v)).map(|v| v + 0.0).ok_or_else(|| {
            let (schedule, found) = (self.text.to_owned(), part.to_owned());
            ScheduleError::Probability { schedule, what, found }
        })
    }

    fn unit(&self, parts: &[&str]) -> Result<Unit, ScheduleError> {
        let schedule = self.text.to_owned();
        match *parts {
            ["chunk", tokens] => {
                let length = tokens.parse().ok().filter(|tokens| *tokens > 0);
                let found = tokens.to_owned();
                length.map(Unit::Chunk).ok_or(ScheduleError::ChunkLength { schedule, found })
            }
            _ => {
                let found = parts.join(":");
                Unit::from_name(&found).ok_or(ScheduleError::Unit { schedule, found })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_read_and_written_back() {
        let cases = [
            ("word:0.25", Schedule::Bernoulli { unit: Unit::Word, p: 0.25 }),
            ("token:0", Schedule::STRONG_ALONE),
            ("token:1", Schedule::WEAK_ALONE),
            ("line:0.5", Schedule::Bernoulli { unit: Unit::Line, p: 0.5 }),
            ("sentence:0.1", Schedule::Bernoulli { unit: Unit::Sentence, p: 0.1 }),
            ("chunk:8:0.5", Schedule::Bernoulli { unit: Unit::Chunk(8), p: 0.5 }),
            ("markov:0.25:0.8", Schedule::Markov { p: 0.25, stay: 0.8 }),
            ("alternate:line", Schedule::Alternate { unit: Unit::Line }),
            ("alternate:chunk:8", Schedule::Alternate { unit: Unit::Chunk(8) }),
            ("takeover:0.5", Schedule::Takeover { f: 0.5 }),
        ];
        for (text, schedule) in cases {
            assert_eq!(text.parse(), Ok(schedule));
            assert_eq!(schedule.to_string(), text);
            assert_eq!(schedule.check(), Ok(()));
        }
        assert_eq!("token:1.0".parse(), Ok(Schedule::WEAK_ALONE));
        assert_eq!("token:-0".parse::<Schedule>().unwrap().to_string(), "token:0");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("words:0.5", "'words:0.5' is not known; known forms are token:P"),
            ("", "'' is not known"),
            ("word", "has 0 parts after 'word' but needs 1"),
            ("word:0.5:0.5", "has 2 parts after 'word' but needs 1"),
            ("chunk:8", "has 1 parts after 'chunk' but needs 2"),
            ("word:1.5", "probability '1.5' is not a number from 0 to 1"),
            ("word:-0.1", "probability '-0.1'"),
            ("word:NaN", "probability 'NaN'"),
            ("word:half", "probability 'half'"),
            ("markov:0.5:2", "probability to stay '2'"),
            ("chunk:0:0.5", "chunk length '0' is not a whole number of at least 1"),
            ("chunk:2.5:0.5", "chunk length '2.5'"),
            ("alternate", "has 0 parts after 'alternate' but needs 1"),
            ("alternate:page", "unit 'page' is none of token, word, line, sentence, chunk:N"),
            ("alternate:word:8", "unit 'word:8' is none of"),
            ("alternate:chunk", "unit 'chunk' is none of"),
            ("alternate:chunk:0", "chunk length '0'"),
            ("takeover:1.01", "fraction '1.01'"),
        ];
        for (text, message) in cases {
            let error = text.parse::<Schedule>().expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(Schedule::Markov { p: 0.5, stay: f64::NAN }.check().is_err());
        assert!(Schedule::Bernoulli { unit: Unit::Chunk(0), p: 0.5 }.check().is_err());
        assert!(Schedule::Alternate { unit: Unit::Chunk(0) }.check().is_err());
    }

    #[test]
    fn solo_schedules_are_recognised() {
        for (text, strong, weak) in [
            ("token:0", true, false),
            ("line:1", false, true),
            ("markov:0:0.5", true, false),
            ("takeover:0", false, true),
            ("takeover:1", false, false),
            ("alternate:line", false, false),
            ("word:0.25", false, false),
        ] {
            let schedule: Schedule = text.parse().unwrap();
            assert_eq!((schedule.is_strong_alone(), schedule.is_weak_alone()), (strong, weak));
        }
    }
}
