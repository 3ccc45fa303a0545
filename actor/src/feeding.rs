//! What the strong model must read in one tick: every slot whose turn it is gives the tokens that
//! its cache lacks, and samples of one problem read its prompt once. Nothing is sampled here.

use std::collections::BTreeMap;

use model::{ModelError, RaggedEngine};
use types::{LeaseId, TokenId};

use crate::slots::Slots;

/// New tokens of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feed {
    pub(crate) row: usize,
    pub(crate) tokens: Vec<TokenId>,
    /// The rows whose next token the logits after the last of `tokens` predict: this one, and
    /// siblings that are still at the bare prompt.
    pub(crate) readers: Vec<usize>,
}

/// Plans one tick. An empty row takes its prompt from a sibling's cache where there is one; where
/// a sibling only reads it in this tick, it joins that one's logits or waits for the next tick.
pub(crate) fn plan(engine: &mut RaggedEngine, slots: &Slots) -> Result<Vec<Feed>, ModelError> {
    let mut feeds: Vec<Feed> = Vec::new();
    let mut leads: BTreeMap<LeaseId, usize> = BTreeMap::new();
    for row in slots.due() {
        let slot = slots.get(row).expect("a due row is taken");
        let prompt = slot.session.plan().prompt.len();
        let response = slot.session.response().len();
        if engine.len(row) == 0 {
            let mut siblings = slots.rows_of(slot.lease);
            if let Some(sibling) = siblings.find(|sibling| engine.len(*sibling) >= prompt) {
                engine.copy_row(sibling, row)?;
                // At least one token must be read for there to be logits.
                engine.truncate(row, prompt.min(prompt + response - 1))?;
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
        let tokens = slot.text_from(engine.len(row));
        feeds.push(Feed { row, tokens, readers: vec![row] });
    }
    Ok(feeds)
}
