//! Journal entries to bytes and back. How bytes are framed and checked is the coordinator's.

use std::time::Duration;

use prost::Message;
use types::{Epoch, Generation, GroupId};

use super::{ConvertError, required, unknown};
use crate::journal::{EvalStage, JournalEntry, JournalEntryError};
use crate::wire::journal as wire;
use crate::wire::journal::entry::Kind;

impl JournalEntry {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::Entry::from(self.clone()).encode_to_vec()
    }

    /// # Errors
    /// Bytes that are no entry, or one that holds what cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalEntryError> {
        Ok(wire::Entry::decode(bytes)?.try_into()?)
    }
}

impl From<JournalEntry> for wire::Entry {
    fn from(entry: JournalEntry) -> Self {
        let kind = match entry {
            JournalEntry::Opened { run, format } => Kind::Opened(wire::Opened { run, format }),
            JournalEntry::Formed { generation, step } => {
                Kind::Formed(wire::Formed { generation: generation.0, step })
            }
            JournalEntry::Granted { group, epoch } => {
                Kind::Granted(wire::Granted { group: group.0, epoch: epoch.0 })
            }
            JournalEntry::Committed { record, wall } => {
                let wall_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
                Kind::Committed(wire::Committed { record: Some(record.into()), wall_ns })
            }
            JournalEntry::Evaluated { stage, step, result } => {
                let stage = match stage {
                    EvalStage::Before => wire::Stage::Before,
                    EvalStage::During => wire::Stage::During,
                    EvalStage::After => wire::Stage::After,
                };
                Kind::Evaluated(wire::Evaluated { stage: stage.into(), step, result })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Entry> for JournalEntry {
    type Error = ConvertError;

    fn try_from(entry: wire::Entry) -> Result<Self, ConvertError> {
        Ok(match required(entry.kind, "kind")? {
            Kind::Opened(wire::Opened { run, format }) => Self::Opened { run, format },
            Kind::Formed(wire::Formed { generation, step }) => {
                Self::Formed { generation: Generation(generation), step }
            }
            Kind::Granted(wire::Granted { group, epoch }) => {
                Self::Granted { group: GroupId(group), epoch: Epoch(epoch) }
            }
            Kind::Committed(wire::Committed { record, wall_ns }) => Self::Committed {
                record: required(record, "record")?.try_into()?,
                wall: Duration::from_nanos(wall_ns),
            },
            Kind::Evaluated(wire::Evaluated { stage, step, result }) => {
                let stage = match wire::Stage::try_from(stage) {
                    Ok(wire::Stage::Before) => EvalStage::Before,
                    Ok(wire::Stage::During) => EvalStage::During,
                    Ok(wire::Stage::After) => EvalStage::After,
                    _ => return Err(unknown("stage", stage)),
                };
                Self::Evaluated { stage, step, result }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use types::{MemberId, PolicyVersion};

    use super::*;
    use crate::work::StepRecord;

    fn committed() -> JournalEntry {
        let record = StepRecord {
            member: MemberId(3),
            step: 7,
            version: PolicyVersion::new(2, 7),
            groups: vec![GroupId(48), GroupId(49)],
            groups_trained: 1,
            groups_zero_variance: 1,
            groups_stale: 4,
            duplicates_refused: 5,
            strong_tokens: 900,
            weak_tokens: 300,
            values: [("loss".to_owned(), -0.25), ("reward".to_owned(), 0.5)].into(),
            checkpoint: Some("step-000007".to_owned()),
        };
        JournalEntry::Committed { record, wall: Duration::from_nanos(1_234_567_891) }
    }

    #[test]
    fn every_entry_is_read_back_as_it_was_written() {
        let evaluated = |stage| JournalEntry::Evaluated { stage, step: 7, result: "{}".into() };
        let entries = [
            JournalEntry::Opened { run: u64::MAX - 3, format: 1 },
            JournalEntry::Formed { generation: Generation(2), step: 5 },
            JournalEntry::Granted { group: GroupId(40), epoch: Epoch(3) },
            committed(),
            evaluated(EvalStage::Before),
            evaluated(EvalStage::During),
            evaluated(EvalStage::After),
        ];
        for entry in entries {
            assert_eq!(JournalEntry::decode(&entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let refused = |entry: wire::Entry| JournalEntry::decode(&entry.encode_to_vec());
        let convert = |fault| Err(JournalEntryError::Convert(fault));
        assert_eq!(refused(wire::Entry { kind: None }), convert(ConvertError::Missing("kind")));
        let empty = wire::Committed { record: None, wall_ns: 1 };
        let fault = ConvertError::Missing("record");
        assert_eq!(refused(wire::Entry { kind: Some(Kind::Committed(empty)) }), convert(fault));
        let evaluated = wire::Evaluated { stage: 4, step: 1, result: String::new() };
        let fault = ConvertError::Unknown { field: "stage", value: 4 };
        assert_eq!(refused(wire::Entry { kind: Some(Kind::Evaluated(evaluated)) }), convert(fault));
        let cut = &committed().encode()[..20];
        assert!(matches!(JournalEntry::decode(cut), Err(JournalEntryError::Decode(_))));
    }
}
