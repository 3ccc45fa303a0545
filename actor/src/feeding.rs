//! What the strong model must read in one tick: every slot whose turn it is gives the tokens that
//! its cache lacks, and samples of one problem read its prompt once. Nothing is sampled here.

use std::collections::BTreeMap;

use model::{ModelError, RaggedEngine, Want};
use types::{LeaseId, TokenId};

use crate::slots::Slots;

/// New tokens of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feed {
    pub(crate) row: usize,
    pub(crate) tokens: Vec<TokenId>,
    /// The rows whose next token the logits after the last of `tokens` predict: this one, unless
    /// more of its text must follow, and siblings that are still at the bare prompt.
    pub(crate) readers: Vec<usize>,
}

impl Feed {
    pub(crate) fn want(&self) -> Want {
        if self.readers.is_empty() { Want::Nothing } else { Want::Last }
    }
}

/// Plans one tick of at most `tokens_max` tokens; the rest of longer texts waits for the next. An
/// empty row takes its prompt from a sibling's cache where there is one; where a sibling only reads
/// it now, it joins that one's logits or waits.
pub(crate) fn plan(
    engine: &mut RaggedEngine,
    slots: &Slots,
    tokens_max: usize,
) -> Result<Vec<Feed>, ModelError> {
    let mut feeds: Vec<Feed> = Vec::new();
    let mut leads: BTreeMap<LeaseId, usize> = BTreeMap::new();
    let (due, mut left): (Vec<usize>, usize) = (slots.due().collect(), tokens_max);
    for (row, behind) in due.iter().copied().zip((0..due.len()).rev()) {
        if left == 0 {
            break;
        }
        let slot = slots.get(row).expect("a due row is taken");
        let prompt = slot.session.plan().prompt.len();
        let response = slot.session.response().len();
        if engine.len(row) == 0 {
            let mut siblings = slots.rows_of(slot.lease);
            let begun = |row: usize| (1..prompt).contains(&engine.len(row));
            if let Some(sibling) = siblings.find(|sibling| engine.len(*sibling) >= prompt) {
                engine.copy_row(sibling, row)?;
                // At least one token must be read for there to be logits.
                engine.truncate(row, prompt.min(prompt + response - 1))?;
            } else if slots.rows_of(slot.lease).any(begun) {
                continue;
            } else if let Some(lead) = leads.get(&slot.lease) {
                let lead = &mut feeds[*lead];
                if response == 0 && lead.tokens.len() == prompt {
                    lead.readers.push(row);
                }
                continue;
            } else {
                leads.insert(slot.lease, feeds.len());
            }
        }
        let mut tokens = slot.text_from(engine.len(row));
        let whole = tokens.len();
        // A long text leaves every row behind it one token, so that those go on beside it.
        tokens.truncate(left.saturating_sub(behind).max(1));
        left -= tokens.len();
        let readers = if tokens.len() == whole { vec![row] } else { Vec::new() };
        feeds.push(Feed { row, tokens, readers });
    }
    Ok(feeds)
}
