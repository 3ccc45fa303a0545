//! The state of a run that goes on from its journal.

use anyhow::Context;
use proto::EvalStage;
use types::Epoch;

use super::RunState;
use crate::eval_plan::EvalResult;
use crate::journal::Surviving;
use crate::source::Source;
use crate::spec::RunSpec;

impl RunState {
    /// As it was after the last committed step. What was dealt after that is dealt anew, fenced
    /// off against every earlier copy.
    ///
    /// # Errors
    /// A journal of another program's evaluations, or of more steps than the run has.
    pub fn resumed(spec: RunSpec, source: Source, surviving: &Surviving) -> anyhow::Result<Self> {
        let mut state = Self::new(spec, source);
        let training = state.spec.training.clone().context("only a run that trains is resumed")?;
        let committed = surviving.step();
        anyhow::ensure!(
            committed <= training.steps,
            "its journal has {committed} steps, more than train.steps"
        );
        (state.generation, state.recorded) = (surviving.generation, surviving.generation);
        for (record, _) in &surviving.committed {
            state.add(record);
            state.ledger.push(state.totals);
        }
        state.last_record = surviving.committed.last().map(|(record, _)| record.clone());
        (state.committed, state.committed_most) = (committed, committed);
        state.next_group = training.groups_of(committed).end;
        state.train_counts.leased = surviving.epochs.len() as u64;
        state.train.deal_from(surviving.epochs.values().max().map_or(Epoch(0), |e| Epoch(e.0 + 1)));
        for ((step, stage), text) in &surviving.evaluations {
            let result: EvalResult =
                serde_json::from_str(text).context("an evaluation in its journal")?;
            state.measured = Some((*step, result.clone()));
            match stage {
                EvalStage::Before => state.before = Some(result),
                EvalStage::During => state.evaluated = Some(*step),
                EvalStage::After => state.after = Some(result),
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
