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
    /// That the strong model has.
    pub(crate) positions: usize,
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
            let examples = problems.iter().map(|problem| self.example(problem));
            let examples = examples.collect::<anyhow::Result<_>>()?;
            if batches.send(ExampleBatch { step, examples }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn example(&self, problem: &Problem) -> anyhow::Result<Example> {
        let example = example(&self.task, problem)?;
        check_length(&example, problem, self.positions)?;
        Ok(example)
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

/// # Errors
/// More tokens than the strong model has positions.
fn check_length(example: &Example, problem: &Problem, positions: usize) -> anyhow::Result<()> {
    let (all, prompt) = (example.tokens.len(), example.prompt_len);
    ensure!(
        all <= positions,
        "problem {}: a prompt of {prompt} tokens and a solution of {} exceed the {positions} \
         positions of strong.model: shorten strong.prompt, few_shot for one, or name a model with \
         more",
        problem.id,
        all - prompt
    );
    Ok(())
}

/// The strong model's prompt, and after it the solution with its end.
pub(crate) fn example(task: &Task, problem: &Problem) -> anyhow::Result<Example> {
    let mut tokens = task.strong_prompt(problem)?;
    let prompt_len = tokens.len();
    let solution = task.solution(problem);
    tokens.extend(solution.context("supervised training needs worked solutions")?);
    Ok(Example { tokens, prompt_len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Miniature;

    #[test]
    fn an_example_longer_than_the_context_is_named() {
        let world = Miniature::small();
        let problem = world.problem(3);
        let whole = example(&world.task, &problem).unwrap();
        let length = whole.tokens.len();
        check_length(&whole, &problem, length).unwrap();
        let error = check_length(&whole, &problem, length - 1).unwrap_err().to_string();
        let prompt = whole.prompt_len;
        let solution = length - prompt;
        let start = format!(
            "problem {}: a prompt of {prompt} tokens and a solution of {solution}",
            problem.id
        );
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains(&format!("the {} positions", length - 1)), "{error}");
    }
}
