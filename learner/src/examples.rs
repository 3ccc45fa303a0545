//! Worked examples for supervised fine-tuning: fetched one step ahead, so that the training thread
//! does not wait for them. Which problems they are is the coordinator's choice.

use anyhow::{Context, ensure};
use grpo::Example;
use member::Tie;
use task::Task;
use telemetry::Health;
use tokio::sync::{mpsc, watch};
use types::{Generation, PolicyVersion, Problem};

use crate::inbox::IDLE_BEAT;

/// What one rank learns in one supervised step.
#[derive(Clone, Debug)]
pub struct ExampleBatch {
    /// Of the ranks that it was fetched for.
    pub generation: Generation,
    pub step: u32,
    pub examples: Vec<Example>,
    pub of_all_ranks: u32,
}

/// From where examples are wanted, and by which of how many ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    from: PolicyVersion,
    rank: usize,
    world: usize,
}

/// The training thread's end of the examples.
pub struct ExampleFeed {
    wanted: watch::Sender<Wanted>,
    batches: mpsc::Receiver<ExampleBatch>,
}

impl ExampleFeed {
    /// With the end of whoever fetches, who is told what is wanted; `ahead` batches may wait.
    #[must_use]
    pub fn new(ahead: usize) -> (Self, watch::Receiver<Wanted>, mpsc::Sender<ExampleBatch>) {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (sender, batches) = mpsc::channel(ahead);
        (Self { wanted, batches }, wants, sender)
    }

    /// From now on the examples of these ranks are wanted, from this version's step on.
    pub fn begin(&self, from: PolicyVersion, (rank, world): (usize, usize)) {
        self.wanted.send_replace(Wanted { from, rank, world });
    }

    /// The next batch of this generation; `None` where nobody fetches any more. Every look is a
    /// beat.
    pub async fn next(&mut self, generation: Generation, health: &Health) -> Option<ExampleBatch> {
        loop {
            match tokio::time::timeout(IDLE_BEAT, self.batches.recv()).await {
                Ok(Some(batch)) if batch.generation != generation => {}
                Ok(batch) => return batch,
                Err(_) => health.beat(),
            }
        }
    }
}

/// Where the examples up to step `until` come from.
pub(crate) struct ExampleSource {
    pub(crate) tie: Tie,
    pub(crate) task: Task,
    /// That the strong model has.
    pub(crate) positions: usize,
    pub(crate) per_step: u32,
    pub(crate) until: u32,
}

impl ExampleSource {
    /// Sends batch after batch of what is wanted; the channel's bound is how far ahead it fetches.
    ///
    /// # Errors
    /// The coordinator deals none, or a problem has no solution.
    pub(crate) async fn feed(
        self,
        mut wants: watch::Receiver<Wanted>,
        batches: mpsc::Sender<ExampleBatch>,
    ) -> anyhow::Result<()> {
        while wants.changed().await.is_ok() {
            let wanted = *wants.borrow_and_update();
            for step in wanted.from.step..self.until {
                let batch = self.batch(step, wanted).await?;
                let sent = tokio::select! {
                    sent = batches.send(batch) => sent.is_ok(),
                    _ = wants.changed() => {
                        wants.mark_changed();
                        break;
                    }
                };
                if !sent {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn batch(&self, step: u32, wanted: Wanted) -> anyhow::Result<ExampleBatch> {
        let problems = self.fetch(step).await?;
        ensure!(!problems.is_empty(), "the coordinator dealt no examples for step {step}");
        let Wanted { from, rank, world } = wanted;
        let own = problems.iter().skip(rank).step_by(world.max(1));
        let examples = own.map(|problem| self.example(problem));
        Ok(ExampleBatch {
            generation: from.generation,
            step,
            examples: examples.collect::<anyhow::Result<_>>()?,
            of_all_ranks: u32::try_from(problems.len())?,
        })
    }

    fn example(&self, problem: &Problem) -> anyhow::Result<Example> {
        let example = example(&self.task, problem)?;
        check_length(&example, problem, self.positions)?;
        Ok(example)
    }

    async fn fetch(&self, step: u32) -> anyhow::Result<Vec<Problem>> {
        let what = format!("fetching the examples of step {step}");
        let problems = self.tie.insist(&what, |mut coordinator, member| async move {
            coordinator.lease_examples(member, step.into(), self.per_step).await
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
