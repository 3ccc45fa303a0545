//! Slots: which rollout sits in which row of the engine's cache, and whose turn it is. Pure; the
//! cache itself belongs to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::Open;
use tandem::{Session, Turn};
use types::{LeaseId, TokenId};

use crate::handover::RolloutId;

/// One rollout being written.
pub(crate) struct Slot {
    pub(crate) rollout: RolloutId,
    pub(crate) lease: LeaseId,
    pub(crate) session: Session,
    /// Set with the first request for a weak span.
    pub(crate) weak: Option<WeakSide>,
}

/// What the weak server has of a rollout.
pub(crate) struct WeakSide {
    pub(crate) open: Arc<Open>,
    /// Response tokens, its own included.
    pub(crate) known: u32,
}

/// Rows, some of them taken.
pub(crate) struct Slots {
    rows: Vec<Option<Slot>>,
    by_rollout: BTreeMap<RolloutId, usize>,
    next_rollout: u64,
}

/// How many slots wait for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub free: usize,
    /// For the strong model's next token.
    pub strong: usize,
    /// For a weak span.
    pub weak: usize,
}

impl Slot {
    /// Prompt and response from position `start` on: what a cache of `start` tokens lacks.
    pub(crate) fn text_from(&self, start: usize) -> Vec<TokenId> {
        let (prompt, response) = (&self.session.plan().prompt, self.session.response());
        prompt.iter().chain(response).skip(start).copied().collect()
    }
}

impl Slots {
    pub(crate) fn new(rows: usize) -> Self {
        let rows = std::iter::repeat_with(|| None).take(rows).collect();
        Self { rows, by_rollout: BTreeMap::new(), next_rollout: 0 }
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn free(&self) -> usize {
        self.rows.len() - self.by_rollout.len()
    }

    /// The row taken; none if all are.
    pub(crate) fn take(&mut self, lease: LeaseId, session: Session) -> Option<usize> {
        let row = self.rows.iter().position(Option::is_none)?;
        let rollout = RolloutId(self.next_rollout);
        self.next_rollout += 1;
        self.by_rollout.insert(rollout, row);
        self.rows[row] = Some(Slot { rollout, lease, session, weak: None });
        Some(row)
    }

    pub(crate) fn release(&mut self, row: usize) -> Option<Slot> {
        let slot = self.rows.get_mut(row)?.take()?;
        self.by_rollout.remove(&slot.rollout);
        Some(slot)
    }

    pub(crate) fn get(&self, row: usize) -> Option<&Slot> {
        self.rows.get(row)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, row: usize) -> Option<&mut Slot> {
        self.rows.get_mut(row)?.as_mut()
    }

    pub(crate) fn row_of(&self, rollout: RolloutId) -> Option<usize> {
        self.by_rollout.get(&rollout).copied()
    }

    /// The rows of one group, in order.
    pub(crate) fn rows_of(&self, lease: LeaseId) -> impl Iterator<Item = usize> + '_ {
        self.taken().filter(move |(_, slot)| slot.lease == lease).map(|(row, _)| row)
    }

    /// The rows whose next token is the strong model's, in order.
    pub(crate) fn due(&self) -> impl Iterator<Item = usize> + '_ {
        let strong = |slot: &Slot| matches!(slot.session.turn(), Turn::Strong { .. });
        self.taken().filter(move |(_, slot)| strong(slot)).map(|(row, _)| row)
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let strong = self.due().count();
        Waiting { free: self.free(), strong, weak: self.by_rollout.len() - strong }
    }

    fn taken(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.rows.iter().enumerate().filter_map(|(row, slot)| Some((row, slot.as_ref()?)))
    }
}
