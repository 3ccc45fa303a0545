//! Worked examples for supervised fine-tuning: fetched one step ahead, so that the training thread
//! does not wait for them. Which problems they are is the coordinator's choice.

use anyhow::{Context, ensure};
use grpo::Example;
use proto::CoordinatorClient;
use runtime::{Attempt, RetryPolicy, retry};
use task::Task;
use tokio::sync::mpsc;
use types::{MemberId, Problem};

/// What one supervised step learns.
#[derive(Clone, Debug)]
pub struct ExampleBatch {
    pub step: u32,
    pub examples: Vec<Example>,
}

/// Where the examples of steps `from` to `until` come from.
pub(crate) struct ExampleSource {
    pub(crate) coordinator: CoordinatorClient,
    pub(crate) member: MemberId,
    pub(crate) task: Task,
    pub(crate) per_step: u32,
    pub(crate) from: u32,
    pub(crate) until: u32,
}

impl ExampleSource {
    /// Sends batch after batch; the channel's bound is how far ahead it fetches.
    ///
    /// # Errors
    /// The coordinator deals none, or a problem has no solution.
    pub(crate) async fn feed(self, batches: mpsc::Sender<ExampleBatch>) -> anyhow::Result<()> {
        for step in self.from..self.until {
            let problems = self.fetch(step).await?;
            ensure!(!problems.is_empty(), "the coordinator dealt no examples for step {step}");
            let examples = problems.iter().map(|problem| example(&self.task, problem));
            let examples = examples.collect::<anyhow::Result<_>>()?;
            if batches.send(ExampleBatch { step, examples }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn fetch(&self, step: u32) -> anyhow::Result<Vec<Problem>> {
        let what = format!("fetching the examples of step {step}");
        let problems = retry(RetryPolicy::default(), &what, || {
            let mut coordinator = self.coordinator.clone();
            async move {
                let dealt = coordinator.lease_examples(self.member, step.into(), self.per_step);
                dealt.await.map_err(|error| match error.code.retryable() {
                    true => Attempt::Again(error),
                    false => Attempt::Stop(error),
                })
            }
        });
        Ok(problems.await?)
    }
}

/// The strong model's prompt, and after it the solution with its end.
pub(crate) fn example(task: &Task, problem: &Problem) -> anyhow::Result<Example> {
    let mut tokens = task.strong_prompt(problem)?;
    let prompt_len = tokens.len();
    let solution = task.solution(problem);
    tokens.extend(solution.context("supervised training needs worked solutions")?);
    Ok(Example { tokens, prompt_len })
}
