//! What a journal's entries leave once rollbacks are applied. Pure; a run that resumes makes its
//! state from it.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{EvalStage, JOURNAL_FORMAT, JournalEntry, StepRecord};
use types::{Epoch, Generation, GroupId};

/// Generations in a row that may form without publishing anything.
pub const UNRECORDED_MAX: u32 = 1_000;

/// The history that counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surviving {
    /// Whose journal it is; none only where there are no entries.
    pub run: Option<u64>,
    /// Of the learners that formed last; 0 where none did.
    pub generation: Generation,
    /// Steps 1, 2, … and when they were committed.
    pub committed: Vec<(StepRecord, Duration)>,
    /// The highest epoch under which each group was dealt. Rollbacks change nothing here: what was
    /// dealt for a step that is void must be fenced off all the same.
    pub epochs: BTreeMap<GroupId, Epoch>,
    /// Results by step, as JSON; where a step was evaluated twice, the later one.
    pub evaluations: BTreeMap<(u32, EvalStage), String>,
}

/// Why entries make no history. Each has a right checksum, so that this is no damage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the journal does not say whose it is: it was not made by a run, move it away")]
    NotOpened,
    #[error(
        "the journal's entries have format {0}, this program reads {JOURNAL_FORMAT}: use the \
         program that wrote it"
    )]
    Format(u32),
    #[error(
        "the journal belongs to run {first:016x} and then to {second:016x}: restore either one's from a \
         copy"
    )]
    Run { first: u64, second: u64 },
    #[error(
        "the journal commits step {found} where step {due} is due, so commits are missing or \
         repeated: restore it from a copy"
    )]
    Step { found: u32, due: u32 },
    #[error(
        "in the journal learners go on from step {step} where {committed} steps are committed, so \
         commits are missing: restore it from a copy"
    )]
    Ahead { step: u32, committed: u32 },
    #[error(
        "in the journal learners of generation {found} form after those of generation {last}: \
         restore it from a copy"
    )]
    Generation { found: Generation, last: Generation },
}

impl Surviving {
    /// The last committed step.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.committed.len() as u32
    }

    /// What another coordinator goes on from: generations that the last one has formed, and that
    /// died before they published anything, are in no journal. None of them comes again.
    #[must_use]
    pub fn gone_on_from(self) -> Self {
        Self { generation: Generation(self.generation.0 + UNRECORDED_MAX), ..self }
    }

    /// The shortest journal that leaves the same.
    #[must_use]
    pub fn entries(&self) -> Vec<JournalEntry> {
        let opened = self.run.map(|run| JournalEntry::Opened { run, format: JOURNAL_FORMAT });
        let granted = self.epochs.iter();
        let granted = granted.map(|(&group, &epoch)| JournalEntry::Granted { group, epoch });
        let committed = self.committed.iter().cloned();
        let committed = committed.map(|(record, wall)| JournalEntry::Committed { record, wall });
        let evaluated = self.evaluations.iter().map(|((step, stage), result)| {
            JournalEntry::Evaluated { stage: *stage, step: *step, result: result.clone() }
        });
        let formed = JournalEntry::Formed { generation: self.generation, step: self.step() };
        let formed = (self.generation > Generation(0)).then_some(formed);
        opened.into_iter().chain(granted).chain(committed).chain(evaluated).chain(formed).collect()
    }

    fn apply(&mut self, entry: JournalEntry) -> Result<(), ReplayError> {
        match entry {
            JournalEntry::Opened { run, format } => self.open(run, format)?,
            _ if self.run.is_none() => return Err(ReplayError::NotOpened),
            JournalEntry::Formed { generation, step } => self.form(generation, step)?,
            JournalEntry::Granted { group, epoch } => {
                let highest = self.epochs.entry(group).or_insert(epoch);
                *highest = epoch.max(*highest);
            }
            JournalEntry::Committed { record, wall } => {
                let (found, due) = (record.step, self.step() + 1);
                if found != due {
                    return Err(ReplayError::Step { found, due });
                }
                self.committed.push((record, wall));
            }
            // Of a step that went back while it was evaluated.
            JournalEntry::Evaluated { step, .. } if step > self.step() => {}
            JournalEntry::Evaluated { stage, step, result } => {
                self.evaluations.insert((step, stage), result);
            }
        }
        Ok(())
    }

    fn open(&mut self, run: u64, format: u32) -> Result<(), ReplayError> {
        if format != JOURNAL_FORMAT {
            return Err(ReplayError::Format(format));
        }
        match self.run.replace(run) {
            Some(first) if first != run => Err(ReplayError::Run { first, second: run }),
            _ => Ok(()),
        }
    }

    fn form(&mut self, generation: Generation, step: u32) -> Result<(), ReplayError> {
        let (last, committed) = (self.generation, self.step());
        if generation <= last {
            return Err(ReplayError::Generation { found: generation, last });
        }
        if step > committed {
            return Err(ReplayError::Ahead { step, committed });
        }
        self.generation = generation;
        self.committed.truncate(step as usize);
        self.evaluations.retain(|(of, _), _| *of <= step);
        Ok(())
    }
}

/// Applies entries in their order.
///
/// # Errors
/// Entries that no run writes: the text says which, and the way out.
pub fn surviving(
    entries: impl IntoIterator<Item = JournalEntry>,
) -> Result<Surviving, ReplayError> {
    let mut surviving = Surviving::default();
    entries.into_iter().try_for_each(|entry| surviving.apply(entry))?;
    Ok(surviving)
}
